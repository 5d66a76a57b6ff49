"""LinFusion's SD-XL rungs on a tiny pipeline: equal to the same steps by hand, from the same generator."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers")
import diffusers
from PIL import Image

from linzoo.diffusion import highres
from linzoo.diffusion.highres.codec import encode
from linzoo.diffusion.highres.conditioning import Conditioning
from linzoo.diffusion.highres.pieces import statistics
from linzoo.diffusion.highres.sdxl_rung import Rung, RungOptions

from .highres_sdxl_runs import PROMPT, photograph, same, seeded, wider, words
from .pipelines import build, quiet


@pytest.fixture(scope="module")
def tiny():
    """Of sample size 8: its own side is 16 pixels."""
    return build("sdxl", sample_size=8)


def test_one_step_is_the_formula_in_float64():
    tiny = build("sdxl", sample_size=16)
    pipe = tiny.pipe
    pipe.unet.double()
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    alphas = pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
    embeds = {name: tiny.inputs[name].double() for name in PROMPT}
    ratio, scale, size = 3, 4.0, (72, 48)
    clean = torch.randn(1, 4, 18, 12, generator=seeded(2), dtype=torch.float64)
    z = torch.randn(1, 4, 18, 12, generator=seeded(3), dtype=torch.float64) + 0.2
    conditioning = Conditioning.of(pipe, size, embeds | {"guidance_scale": scale})
    options = RungOptions(cosine_scale_1=2.5, cosine_scale_2=0.7, cosine_scale_3=1.3, gaussian_sigma=0.8)
    rung = Rung(
        pipe=pipe, clean=clean, conditioning=conditioning, steps=5, strength=1.0, ratio=ratio,
        options=options, generator=seeded(4),
    )  # fmt: skip
    with torch.no_grad():
        found = rung.step(1, z)

        t = 600  # early enough for a wide blur
        assert rung.tail.timesteps.tolist() == [800, 600, 400, 200, 0]
        noise = torch.randn(1, 4, 18, 12, generator=seeded(4), dtype=torch.float64)
        g = math.cos(math.pi * (1000 - t) / 2000) ** 2
        a, before = alphas[t], alphas[t - 200]
        z = z + g**2.5 * (a.sqrt() * clean + (1 - a).sqrt() * noise - z)
        sigma = 0.8 * (0.99 * g**1.3 + 0.01)
        distance = torch.arange(5, dtype=torch.float64) - 2
        kernel = torch.exp(-(distance[:, None] ** 2 + distance**2) / 2 / sigma**2)
        kernel = (kernel / kernel.sum()).expand(4, 1, 5, 5)
        soft = F.conv2d(z, kernel, padding=2, groups=4)
        soft = (soft - soft.mean((2, 3), keepdim=True)) / soft.var((2, 3), keepdim=True).sqrt()
        soft = soft * z.var((2, 3), keepdim=True).sqrt() + z.mean((2, 3), keepdim=True)
        ids = torch.tensor([[72.0, 48, 0, 0, 72, 48]], dtype=torch.float64)

        def guided(unet, x):
            half = {}
            for kind in ("", "negative_"):
                told = {"text_embeds": embeds[f"{kind}pooled_prompt_embeds"], "time_ids": ids}
                text = embeds[f"{kind}prompt_embeds"]
                half[kind] = unet(x, t, encoder_hidden_states=text, added_cond_kwargs=told).sample
            return half["negative_"] + scale * (half[""] - half["negative_"])

        def stepped(prediction):
            start = (z - (1 - a).sqrt() * prediction) / a.sqrt()
            return before.sqrt() * start + (1 - before).sqrt() * prediction

        first, second = stepped(guided(pipe.unet, z)), stepped(guided(wider(pipe.unet, ratio), soft))
        wanted = first + g**0.7 * (second - first)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def by_hand(tiny, generator, height, width, ratios, strengths, steps=5, scale=5.0):
    """The ladder as diffusers' own pipelines and a scheduler made anew for each step would draw it."""
    pipe = tiny.pipe
    redraw = quiet(diffusers.AutoPipelineForImage2Image.from_pipe(pipe))
    last = (height * 2 ** len(strengths), width * 2 ** len(strengths))
    sizes = {"original_size": last, "target_size": last}
    embeds = {name: tiny.inputs[name] for name in PROMPT}
    z = pipe(
        **embeds, **sizes, height=height, width=width, num_inference_steps=steps, guidance_scale=scale,
        generator=generator, output_type="latent",
    ).images  # fmt: skip
    mean, std = z.mean((2, 3), keepdim=True), z.std((2, 3), keepdim=True)

    def pixels(z):
        with torch.no_grad():
            decoded = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
        return pipe.image_processor.postprocess(decoded, output_type="pil")[0]

    images = [pixels(z)]
    for ratio, strength in zip(ratios, strengths, strict=True):
        enlarged = images[-1].resize((width * ratio, height * ratio), Image.BICUBIC)
        enlarged = redraw.image_processor.preprocess(enlarged)
        wide = wider(pipe.unet, ratio)
        with torch.no_grad():
            clean = redraw.prepare_latents(
                enlarged, None, 1, 1, torch.float32, "cpu", generator, add_noise=False
            )
            noise = torch.randn(clean.shape, generator=generator)
            count = math.ceil(steps * strength)
            schedule = copy.deepcopy(pipe.scheduler)
            schedule.set_timesteps(steps)
            tail = schedule.timesteps[-count:]
            z = schedule.add_noise(clean, noise, tail[:1])
            for i, t in enumerate(tail):
                g = (1 + math.cos(math.pi * (1000 - t.item()) / 1000)) / 2
                c1, c2 = g**3, g
                schedule.set_timesteps(steps)
                z = z * (1 - c1) + schedule.add_noise(clean, noise, t.reshape(1)) * c1
                soft = highres_blur(z, ratio, 0.99 * g + 0.01)
                stepped = []
                for unet, seen in ((pipe.unet, z), (wide, soft)):
                    schedule.set_timesteps(steps)
                    schedule.set_begin_index(steps - count + i)
                    both = schedule.scale_model_input(torch.cat([seen, seen]), t)
                    told = {
                        "text_embeds": torch.cat([embeds[PROMPT[3]], embeds[PROMPT[2]]]),
                        "time_ids": torch.tensor([[*last, 0, 0, *last]] * 2, dtype=torch.float32),
                    }
                    text = torch.cat([embeds[PROMPT[1]], embeds[PROMPT[0]]])
                    low, high = unet(
                        both, t, encoder_hidden_states=text, added_cond_kwargs=told
                    ).sample.chunk(2)
                    again = {"generator": generator} if "Ancestral" in type(schedule).__name__ else {}
                    stepped.append(schedule.step(low + scale * (high - low), t, z, **again).prev_sample)
                z = stepped[0] * (1 - c2) + stepped[1] * c2
            z = (z - z.mean((2, 3), keepdim=True)) / z.std((2, 3), keepdim=True) * std + mean
        images.append(pixels(z))
    return images


def highres_blur(z, ratio, sigma):
    distance = torch.arange(2 * ratio - 1) - (ratio - 1.0)
    kernel = torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(4, 1, *kernel.shape)
    soft = F.conv2d(z, kernel, padding=ratio - 1, groups=4)
    soft = (soft - soft.mean((2, 3), keepdim=True)) / soft.std((2, 3), keepdim=True)
    return soft * z.std((2, 3), keepdim=True) + z.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_the_ladder_equals_the_same_calls_by_hand(tiny, scheduler):
    pipe = tiny.pipe
    stock = pipe.scheduler
    pipe.scheduler = getattr(diffusers, scheduler)()
    try:
        found = highres.sdxl_ladder(
            pipe, height=64, width=32, generator=seeded(), upscale_strength=1.0, **words(tiny)
        )
        wanted = by_hand(tiny, seeded(), 16, 8, ratios=(2, 4), strengths=(1.0, 0.5))
    finally:
        pipe.scheduler = stock
    assert [image.size for image in found] == [(8, 16), (16, 32), (32, 64)]
    for ours, theirs in zip(found, wanted, strict=True):
        difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # a rounding of float32 to bytes
    assert np.asarray(found[2]).std() > 5


def test_same_seed_same_bits_whatever_the_global_state_and_another_seed_another_rung(tiny):
    first = highres.super_resolution(tiny.pipe, image=photograph(), generator=seeded(), **words(tiny))
    torch.manual_seed(99)
    again = highres.super_resolution(tiny.pipe, image=photograph(), generator=seeded(), **words(tiny))
    other = highres.super_resolution(tiny.pipe, image=photograph(), generator=seeded(2), **words(tiny))
    assert same(first, again) and not same(first, other)


def test_nothing_random_ignores_the_generator(tiny, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("drawn from the global generator")

    real = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **w: real(*a, **w) if w.get("generator") else refuse())
    monkeypatch.setattr(torch, "randn_like", refuse)
    before = torch.get_rng_state()
    highres.sdxl_ladder(tiny.pipe, height=32, width=16, generator=seeded(), **words(tiny))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_climb_of_two_rungs_equals_two_calls(tiny):
    generator = seeded()
    climbed = highres.super_resolution(
        tiny.pipe, image=photograph(), strengths=(0.4, 0.2), generator=seeded(), **words(tiny)
    )
    low = highres.super_resolution(
        tiny.pipe, image=photograph(), strengths=(0.4,), generator=generator, **words(tiny)
    )
    high = highres.super_resolution(
        tiny.pipe, image=low[0], strengths=(0.2,), generator=generator, **words(tiny)
    )
    assert [image.size for image in climbed] == [(24, 32), (48, 64)] and same(climbed, low + high)


def test_an_enlarged_picture_has_the_latent_statistics_of_its_start_and_is_dilated_by_its_ratio(
    tiny, monkeypatch
):
    from linzoo.diffusion.highres import sdxl_drawing, sdxl_rung

    ratios, decoded = [], []
    real = sdxl_rung.dilated
    monkeypatch.setattr(sdxl_rung, "dilated", lambda unet, ratio: ratios.append(ratio) or real(unet, ratio))
    keep = sdxl_drawing.picture_of_latents
    monkeypatch.setattr(
        sdxl_drawing, "picture_of_latents", lambda pipe, z, *rest: decoded.append(z) or keep(pipe, z, *rest)
    )
    highres.super_resolution(
        tiny.pipe, image=photograph(24, 12), strengths=(0.4, 0.2), generator=seeded(), **words(tiny)
    )
    assert ratios == [3, 3, 6]  # long sides 48 and 96 of 16; two steps, then one
    clean = encode(tiny.pipe, photograph(24, 12).resize((24, 48), Image.BICUBIC), seeded(), torch.float32)
    for found, wanted in zip(statistics(decoded[0]), statistics(clean), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
