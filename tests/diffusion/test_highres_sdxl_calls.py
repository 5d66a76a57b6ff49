"""Calls of LinFusion's SD-XL rungs: what the model is told, callbacks, errors, coding, refusals."""

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from linzoo.diffusion import highres, linearize
from linzoo.diffusion.highres.codec import decode, encode, upcast
from linzoo.diffusion.highres.sdxl_rung import RungOptions

from .highres_sdxl_runs import convolutions, photograph, same, seeded, words
from .pipelines import build, quiet


@pytest.fixture(scope="module")
def tiny():
    """Of sample size 8: its own side is 16 pixels."""
    return build("sdxl", sample_size=8)


def test_every_rung_is_told_the_last_size_and_the_words_win(tiny):
    told = []
    hook = tiny.pipe.unet.register_forward_pre_hook(
        lambda module, args, words: told.append(words["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    try:
        highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny))
        assert all(ids.tolist() == [[32, 16, 0, 0, 32, 16]] * 2 for ids in told) and len(told) == 5 + 2 * 2
        told.clear()
        sizes = {"original_size": (9, 8), "crops_coords_top_left": (1, 2), "target_size": (7, 6)}
        sizes |= {"negative_original_size": (5, 5), "negative_target_size": (4, 4)}
        highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny), **sizes)
        assert all(ids.tolist() == [[5, 5, 0, 0, 4, 4], [9, 8, 1, 2, 7, 6]] for ids in told)
    finally:
        hook.remove()


@pytest.mark.parametrize("moment", ["a step's end", "inside the dilated prediction"])
def test_an_error_in_a_rung_leaves_convolutions_and_vae_as_they_were(tiny, moment):
    unet, vae = tiny.pipe.unet, tiny.pipe.vae
    before = convolutions(unet), vae.use_tiling, vae.tile_sample_min_size, vae.dtype

    def fail(*_):
        if moment == "a step's end" or convolutions(unet) != before[0]:
            raise KeyboardInterrupt

    hook = unet.mid_block.register_forward_hook(fail) if moment.startswith("inside") else None
    callback = {} if hook else {"callback_on_step_end": fail}
    try:
        with pytest.raises(KeyboardInterrupt):
            highres.super_resolution(
                tiny.pipe, image=photograph(), generator=seeded(), tile=16, **words(tiny), **callback
            )
    finally:
        if hook:
            hook.remove()
    assert (convolutions(unet), vae.use_tiling, vae.tile_sample_min_size, vae.dtype) == before


def test_a_callback_sees_every_step_and_may_change_the_latents(tiny):
    seen = []

    def note(pipe, i, t, tensors):
        seen.append((i, float(t), tuple(tensors["latents"].shape)))
        return {}

    plain = highres.super_resolution(tiny.pipe, image=photograph(), generator=seeded(), **words(tiny))
    noted = highres.super_resolution(
        tiny.pipe, image=photograph(), generator=seeded(), callback_on_step_end=note, **words(tiny)
    )
    assert same(plain, noted) and [entry[0] for entry in seen] == [0, 1] and seen[0][2] == (1, 4, 16, 12)
    zeroed = highres.super_resolution(
        tiny.pipe, image=photograph(), generator=seeded(), **words(tiny),
        callback_on_step_end=lambda p, i, t, tensors: {"latents": tensors["latents"].flip(2)},
    )  # fmt: skip
    assert not same(plain, zeroed)


def test_a_linearized_pipeline_climbs_and_differs_from_softmax(tiny):
    softmax = highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny))
    handle = linearize(tiny.pipe, "linfusion", init="inherit")
    try:
        linear = highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny))
    finally:
        handle.unlinearize()
    assert [image.size for image in linear] == [(8, 16), (16, 32)]
    assert not same(softmax, linear)
    assert same(
        softmax, highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny))
    )


@pytest.mark.parametrize("latents_mean", [None, [0.1, -0.2, 0.3, 0.4]])
def test_coding_is_that_of_diffusers_pipelines(latents_mean):
    pipe = build("sdxl").pipe
    if latents_mean:
        pipe.vae.register_to_config(latents_mean=latents_mean, latents_std=[0.5, 2.0, 1.5, 1.0])
    redraw = quiet(diffusers.AutoPipelineForImage2Image.from_pipe(pipe))
    with torch.no_grad():
        found = encode(pipe, photograph(32, 24), seeded(), torch.float32)
        pixels = redraw.image_processor.preprocess(photograph(32, 24))
        wanted = redraw.prepare_latents(pixels, None, 1, 1, torch.float32, "cpu", seeded(), add_noise=False)
        assert torch.equal(found, wanted)
        embeds = {"prompt_embeds": torch.zeros(1, 2, 32), "pooled_prompt_embeds": torch.zeros(1, 16)}
        end = pipe(
            **embeds, latents=found, num_inference_steps=1, guidance_scale=1.0, height=32, width=24,
            output_type="latent",
        ).images  # fmt: skip
        image = pipe(
            **embeds, latents=found, num_inference_steps=1, guidance_scale=1.0, height=32, width=24,
        ).images[0]  # fmt: skip
        assert same([decode(pipe, end)], [image])


def test_an_offloaded_pipeline_climbs_to_the_same_pictures(tiny):
    offloaded = build("sdxl", sample_size=8)
    offloaded.pipe.enable_model_cpu_offload(device="cpu")
    run = {"image": photograph(), **words(tiny)}
    found = highres.super_resolution(offloaded.pipe, generator=seeded(), **run)
    assert same(found, highres.super_resolution(tiny.pipe, generator=seeded(), **run))


def test_a_half_precision_vae_is_upcast_for_a_while_only():
    vae = build("sdxl").pipe.vae.half()
    with pytest.raises(RuntimeError, match="stop"), upcast(vae, True):
        assert vae.dtype == torch.float32
        raise RuntimeError("stop")
    assert vae.dtype == torch.float16
    with upcast(vae, False):
        assert vae.dtype == torch.float16


def test_a_size_that_doublings_miss_is_told(tiny):
    with pytest.warns(UserWarning, match="doublings do not reach 24 x 12: the last is 32 x 16"):
        images = highres.sdxl_ladder(
            tiny.pipe, height=24, width=12, generator=seeded(), **words(tiny, num_inference_steps=1)
        )
    assert images[-1].size == (16, 32)


def refusal(call, *args, **changes) -> str:
    with pytest.raises(ValueError) as error:
        call(*args, **changes)
    return str(error.value)


def test_what_a_rung_cannot_do_is_refused_before_anything_is_drawn(tiny, monkeypatch):
    pipe = tiny.pipe
    monkeypatch.setattr(pipe.unet, "forward", None)  # nothing is drawn
    size = {"height": 64, "width": 32}
    assert "got num_images_per_prompt: a rung does not take it" in refusal(
        highres.sdxl_ladder, pipe, **size, **words(tiny, num_images_per_prompt=2)
    )
    assert "got guidance: the pipeline has no such word" in refusal(
        highres.sdxl_ladder, pipe, **size, **words(tiny, guidance=2)
    )
    assert "prompt must be one prompt, got 2" in refusal(highres.sdxl_ladder, pipe, ["a", "b"], **size)
    assert "pipe must be a StableDiffusionXLPipeline, got StableDiffusionPipeline" in refusal(
        highres.sdxl_ladder, build("sd").pipe, "x", **size
    )
    assert "height must be a positive number of pixels, got -3" in refusal(
        highres.sdxl_ladder, pipe, "x", height=-3, width=8
    )
    assert "tile must be a multiple of 8 pixels, got 30" in refusal(
        highres.sdxl_ladder, pipe, "x", **size, tile=30
    )
    assert "strengths must be above 0 and at most 1, got 1.5" in refusal(
        highres.super_resolution, pipe, "x", image=photograph(), strengths=(1.5,)
    )
    assert "image must be multiples of 2 pixels, got 31 x 24" in refusal(
        highres.super_resolution, pipe, "x", image=photograph(31, 24)
    )
    stock = pipe.scheduler
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler()
    try:
        assert "got DPMSolverMultistepScheduler" in refusal(highres.sdxl_ladder, pipe, "x", **size)
    finally:
        pipe.scheduler = stock


def test_options_are_checked():
    with pytest.raises(ValueError, match="gaussian_sigma must be > 0, got 0"):
        RungOptions(gaussian_sigma=0)
    with pytest.raises(ValueError, match="cosine_scale_1 must be >= 0, got -1"):
        RungOptions(cosine_scale_1=-1)
    with pytest.raises(TypeError, match="cosine_scale_2 must be a number, got '1'"):
        RungOptions(cosine_scale_2="1")
