"""The SDEdit ladder on every tiny pipeline: diffusers' own calls by hand give the same pictures."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers
from PIL import Image

from linzoo.diffusion import highres, linearize
from linzoo.diffusion.highres.image_to_image import PixArtImageToImage, image_to_image
from linzoo.diffusion.highres.sizes import ladder_steps, native_side, usual_strengths
from linzoo.diffusion.highres.tiling import tiled

from .pipelines import build, quiet

SIZE = ("height", "width", "num_inference_steps", "output_type")
STEPS = 4
FAMILIES = ("sd", "sdxl", "flux", "sd3", "pixart_sigma")


def words(tiny, **changes) -> dict:
    kept = {name: value for name, value in tiny.inputs.items() if name not in SIZE}
    return kept | {"num_inference_steps": STEPS} | changes


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a, b) -> bool:
    return all(np.array_equal(np.asarray(i), np.asarray(j)) for i, j in zip(a, b, strict=True))


def photograph(height: int = 16, width: int = 24) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([5 * y + x, 255 - 4 * x, (x * y) % 256], -1).astype(np.uint8))


def pixart_by_hand(pipe, image, strength, generator, **given):
    """The picture's latents noised for the tail of the schedule, which the stock pipeline then walks."""
    pixels = pipe.image_processor.preprocess(image)
    with torch.no_grad():
        clean = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    schedule = type(pipe.scheduler).from_config(pipe.scheduler.config)
    schedule.set_timesteps(STEPS)
    tail = schedule.timesteps[STEPS - int(STEPS * strength) :]
    noised = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), tail[:1])
    size = {"height": image.height, "width": image.width, "generator": generator}
    return pipe(**given, latents=noised, timesteps=tail.tolist(), **size)


def by_hand(kind, tiny, strengths) -> list:
    pipe, generator = tiny.pipe, seeded()
    given = words(tiny)
    images = [pipe(**given, height=16, width=24, generator=generator).images[0]]
    for rung, strength in enumerate(strengths, 1):
        height, width = 16 * 2**rung, 24 * 2**rung
        enlarged = images[-1].resize((width, height), Image.BICUBIC)
        if kind.startswith("pixart"):
            redraw = pixart_by_hand(pipe, enlarged, strength, generator, **given)
        else:
            redraw = quiet(diffusers.AutoPipelineForImage2Image.from_pipe(pipe))
            size = {"height": height, "width": width} if kind in ("flux", "sd3") else {}
            redraw = redraw(**given, **size, image=enlarged, strength=strength, generator=generator)
        images.append(redraw.images[0])
    return images


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_ladder_equals_diffusers_image_to_image_by_hand(kind):
    tiny = build(kind)
    found = highres.ladder(
        tiny.pipe, height=64, width=96, strengths=(0.5, 0.3), generator=seeded(), **words(tiny)
    )
    assert [image.size for image in found] == [(24, 16), (48, 32), (96, 64)]
    assert same(found, by_hand(kind, tiny, (0.5, 0.3)))
    assert np.asarray(found[2]).std() > 3


SWAPS = [
    ("sd", "linfusion", {}),
    ("sdxl", "linfusion", {}),
    ("flux", "clear", {"radius": 3}),
    ("sd3", "clear", {"radius": 3}),
    ("pixart_sigma", "lit", {}),
]


@pytest.mark.parametrize(("kind", "method", "options"), SWAPS)
def test_linearized_pipelines_climb_by_their_own_attention(kind, method, options):
    tiny = build(kind)
    run = {"height": 32, "width": 48, "strengths": (0.5,), **words(tiny)}
    softmax = highres.ladder(tiny.pipe, generator=seeded(), **run)
    linearize(tiny.pipe, method, **options)
    linear = highres.ladder(tiny.pipe, generator=seeded(), **run)
    again = highres.ladder(tiny.pipe, generator=seeded(), **run)
    assert same(linear, again) and not same(linear, softmax)


def test_clears_rung_stretches_positions_and_scores_and_puts_them_back():
    tiny = build("flux")
    linearize(tiny.pipe, "clear", radius=3)
    transformer, seen = tiny.pipe.transformer, []
    hook = transformer.register_forward_pre_hook(
        lambda module, args, given: seen.append(
            (module.pos_embed.theta, given.get("joint_attention_kwargs"), given["guidance"].item())
        ),
        with_kwargs=True,
    )
    found = highres.clear_ladder(
        tiny.pipe, height=64, width=96, generator=seeded(), **words(tiny, num_inference_steps=4)
    )
    hook.remove()
    assert [image.size for image in found] == [(24, 16), (96, 64)]
    proportional = {"proportional_attention": True}
    assert [entry[0] for entry in seen] == [10_000] * 4 + [100_000] * 3
    assert [entry[2] for entry in seen] == [3.5] * 4 + [7.5] * 3
    assert all(proportional.items() <= entry[1].items() for entry in seen[4:])
    assert all("proportional_attention" not in (entry[1] or {}) for entry in seen[:4])
    assert transformer.pos_embed.theta == 10_000

    generator = seeded()
    by_hand = [
        tiny.pipe(**words(tiny), guidance_scale=3.5, height=16, width=24, generator=generator).images[0]
    ]
    redraw = quiet(diffusers.FluxImg2ImgPipeline(**tiny.pipe.components))
    transformer.pos_embed.theta = 100_000
    by_hand += redraw(
        **words(tiny), guidance_scale=7.5, height=64, width=96, generator=generator, strength=0.7,
        joint_attention_kwargs=proportional, image=by_hand[0].resize((96, 64), Image.BICUBIC),
    ).images  # fmt: skip
    assert same(found, by_hand)


def test_an_error_in_a_rung_puts_the_rotary_base_back():
    tiny = build("flux")

    def fail(*_):
        if tiny.pipe.transformer.pos_embed.theta != 10_000:
            raise KeyboardInterrupt
        return {}

    run = {"height": 32, "width": 48, "strengths": (0.5,), "ntk_factor": 10, "callback_on_step_end": fail}
    with pytest.raises(KeyboardInterrupt):
        highres.ladder(tiny.pipe, generator=seeded(), **run, **words(tiny))
    assert tiny.pipe.transformer.pos_embed.theta == 10_000


def test_a_ladder_from_a_picture_redraws_it_at_once_and_takes_other_words_for_the_rungs():
    tiny = build("sd")
    start = photograph()
    found = highres.ladder(
        tiny.pipe, image=start, strengths=(0.5,), generator=seeded(), rung_words={"guidance_scale": 2.0},
        **words(tiny),
    )  # fmt: skip
    redraw = image_to_image(tiny.pipe)
    wanted = redraw(
        **words(tiny), guidance_scale=2.0, image=start.resize((48, 32), Image.BICUBIC), strength=0.5,
        generator=seeded(),
    ).images  # fmt: skip
    assert same(found, wanted)


def test_a_picture_larger_than_a_tile_is_coded_in_tiles_for_its_rung_only():
    tiny = build("sd")
    vae, seen = tiny.pipe.vae, []
    before = (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size)
    real = vae.tiled_decode
    vae.tiled_decode = lambda z, **given: (
        seen.append((tuple(z.shape[2:]), vae.tile_latent_min_size)) or real(z, **given)
    )
    run = {"height": 32, "width": 48, "strengths": (0.5,), **words(tiny)}
    in_tiles = highres.ladder(tiny.pipe, generator=seeded(), tile=32, **run)
    assert seen == [((16, 24), 16)]  # the first picture fits one
    assert (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size) == before
    whole = highres.ladder(tiny.pipe, generator=seeded(), tile=None, **run)
    assert len(seen) == 1 and same(in_tiles[:1], whole[:1]) and not same(in_tiles, whole)
    vae.enable_tiling()
    with tiled(vae, 16):  # its user's own tiles stay
        assert vae.tile_sample_min_size == before[1]
    assert vae.use_tiling


def test_pictures_are_shown_as_they_are_finished_and_the_progress_bar_says_their_size(tmp_path, capsys):
    tiny = build("flux")
    shown = []
    tiny.pipe.set_progress_bar_config(ascii=True)
    found = highres.ladder(
        tiny.pipe, height=32, width=48, strengths=(0.5,), generator=seeded(), output=tmp_path / "last.tif",
        callback_on_rung_end=lambda pipe, number, image: shown.append((pipe is tiny.pipe, number, image)),
        **words(tiny),
    )  # fmt: skip
    assert [entry[:2] for entry in shown] == [(True, 0), (True, 1)] and same([e[2] for e in shown], found)
    with Image.open(tmp_path / "last.tif") as file:
        assert same([file], found[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["last.tif"]
    bars = capsys.readouterr().err
    assert "16 x 24: 100%" in bars and "32 x 48: 100%" in bars
    assert tiny.pipe._progress_bar_config == {"ascii": True}


def test_the_usual_rungs_of_8192_x_16384_from_sd15_are_linfusions():
    model = type("Unet", (), {"config": {"patch_size": None}})()
    pipe = type("Pipe", (), {"vae_scale_factor": 8, "default_sample_size": 64, "unet": model})()
    assert native_side(pipe) == 512
    strengths = usual_strengths(pipe, 8192, 16384, 2)
    assert strengths == (0.4, 0.3, 0.2, 0.1)
    steps = ladder_steps(pipe, 8192, 16384, strengths, 2, None)
    assert [(s.height, s.width) for s in steps] == [
        (512, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (8192, 16384),
    ]  # fmt: skip
    assert [s.strength for s in steps] == [None, 0.4, 0.3, 0.2, 0.1]
    assert usual_strengths(pipe, 512, 900, 2) == () and usual_strengths(pipe, 2048, 4096, 4) == (0.4,)
    with pytest.raises(
        ValueError, match="strengths must be given for 16384 x 16384: it is 5 rungs above 512"
    ):
        usual_strengths(pipe, 16384, 16384, 2)


REFUSED = [
    ("sd", {"height": 30, "width": 48, "strengths": (0.5, 0.3)}, "divided by 4 must be multiples of 2"),
    ("flux", {"height": 36, "width": 48, "strengths": (0.5,)}, "must be multiples of 4 pixels, got 36 x 48"),
    ("sd", {"height": 32, "width": 48, "strengths": (0.1,)}, "must leave at least 1 of 4 steps, got 0.1"),
    ("sd", {"height": 32, "width": 48, "strengths": (1.1,)}, "must be above 0 and at most 1, got 1.1"),
    ("sd", {"width": 48, "strengths": (0.5,)}, "height must be a positive number of pixels, got None"),
    ("sd", {"height": 32, "width": 48, "factor": 0, "strengths": (0.5,)}, "factor must be a whole number"),
    ("sd", {"height": 32, "width": 48, "output_type": "np"}, "words must leave output_type to the ladder"),
    ("sd", {"height": 32, "width": 48, "promt": "x"}, "of the call of StableDiffusionPipeline, got promt"),
    ("sd", {"height": 32, "width": 48, "ntk_factor": 10}, "ntk_factor needs rotary positions"),
    ("flux", {"height": 32, "width": 48, "proportional_attention": True}, "a model with softmax attention"),
    ("sd3", {"height": 256, "width": 64, "strengths": ()}, "must be at most 128, the end of this"),
    ("sd", {"image": photograph(), "height": 33, "width": 48, "strengths": (0.5,)}, "must be 32 x 48, image"),
    ("sd", {"image": photograph()}, "strengths must be given with image"),
    ("sd", {"height": 32, "width": 48, "prompt_embeds": torch.zeros(2, 9, 32)}, "of one prompt, got 2"),
    ("sd", {"height": 32, "width": 48, "output": "a.jpg"}, "output must end in .png, .tif, .tiff"),
    ("sd", {"height": 32, "width": 48, "num_images_per_prompt": 2}, "leave num_images_per_prompt to"),
    ("sd", {"height": 64, "width": 48, "strengths": (0.5,), "tile": 33}, "must be a multiple of 8 pixels"),
    ("dit", {"height": 32, "width": 32, "strengths": (0.5,)}, "image-to-image form .* got DiTPipeline"),
]  # fmt: skip
PIPES = {}


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_what_does_not_go_together_is_refused_before_anything_is_drawn(kind, changes, message):
    tiny = PIPES.setdefault(kind, build(kind))
    tiny.model.forward = None  # nothing is drawn
    with pytest.raises(ValueError, match=message):
        highres.ladder(tiny.pipe, "x", **{"num_inference_steps": 4} | changes)


def test_offloaded_pipelines_climb_to_the_same_pictures_and_stay_offloaded():
    plain, offloaded = build("sd"), build("sd")
    offloaded.pipe.enable_model_cpu_offload(device="cpu")
    run = {"height": 32, "width": 48, "strengths": (0.5,)}
    found = highres.ladder(offloaded.pipe, generator=seeded(), **run, **words(offloaded))
    assert same(found, highres.ladder(plain.pipe, generator=seeded(), **run, **words(plain)))
    assert hasattr(offloaded.pipe.unet, "_hf_hook") and offloaded.pipe._all_hooks


def test_an_array_is_no_picture_to_start_from():
    with pytest.raises(TypeError, match="image must be a PIL image, got ndarray"):
        highres.ladder(
            PIPES.setdefault("sd", build("sd")).pipe, "x", image=np.zeros((8, 8, 3)), strengths=(0.5,)
        )


def test_part_of_a_step_is_enough_where_the_pipeline_rounds_up():
    tiny = build("flux")
    run = {"height": 32, "width": 48, "strengths": (0.1,), "generator": seeded(), **words(tiny)}
    assert len(highres.ladder(tiny.pipe, **run)) == 2


def test_pixart_starts_from_a_picture_by_first_order_schedulers_only():
    tiny = build("pixart_alpha")
    tiny.pipe.scheduler = diffusers.HeunDiscreteScheduler()
    with pytest.raises(ValueError, match="scheduler must be of order 1, got HeunDiscreteScheduler"):
        PixArtImageToImage(tiny.pipe)(photograph(), 0.5)


def test_an_image_to_image_pipeline_draws_its_first_picture_from_text():
    tiny = build("sd")
    redraw = image_to_image(tiny.pipe)
    run = {"height": 32, "width": 48, "strengths": (0.5,), **words(tiny)}
    assert same(
        highres.ladder(redraw, generator=seeded(), **run),
        highres.ladder(tiny.pipe, generator=seeded(), **run),
    )
