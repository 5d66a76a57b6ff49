"""The formulas of the SD-XL rungs, each against a computation of its own in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("diffusers")
import diffusers

from linzoo.diffusion.highres import pieces, sizes
from linzoo.diffusion.highres.schedule import Tail, check_scheduler


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 1.7 + 0.3


def test_the_cosine_falls_from_one_at_the_first_timestep_to_zero_at_the_last():
    assert pieces.cosine(1000, 1000) == 1 and pieces.cosine(0, 1000) == 0
    assert pieces.cosine(250, 1000) == pytest.approx(math.sin(math.pi / 8) ** 2, abs=1e-15)
    assert pieces.cosine(600.5, 1000) == pytest.approx(math.sin(math.pi * 0.30025) ** 2, abs=1e-15)


def test_the_blur_is_the_weighted_mean_of_the_neighbours_with_zeros_beyond_the_edge():
    x, taps, sigma = latents(2, 3, 6, 7), 5, 0.8
    wanted = torch.zeros_like(x)
    total = sum(math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(-2, 3)) ** 2
    for y in range(6):
        for column in range(7):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    if 0 <= y + dy < 6 and 0 <= column + dx < 7:
                        weight = math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma)) / total
                        wanted[:, :, y, column] += weight * x[:, :, y + dy, column + dx]
    torch.testing.assert_close(pieces.gaussian_blur(x, taps, sigma), wanted, rtol=0, atol=1e-14)


def test_a_blurred_latent_has_the_mean_and_deviation_of_each_channel_of_each_image():
    x = latents(2, 3, 8, 9)
    y = pieces.blurred(x, ratio=3, sigma=1.0)
    for image in range(2):
        for channel in range(3):
            before, after = x[image, channel].flatten(), y[image, channel].flatten()
            assert after.mean() == pytest.approx(before.mean().item(), abs=1e-12)
            assert after.var() == pytest.approx(before.var().item(), rel=1e-12)
    assert (y - x).abs().max() > 0.5


def test_statistics_of_another_latent_are_taken_on():
    x, anchor = latents(1, 4, 8, 8), pieces.statistics(latents(1, 4, 5, 6, seed=1) * 3)
    y = pieces.with_statistics(x, anchor)
    assert all(map(torch.allclose, pieces.statistics(y), anchor))
    z = (x - x.mean((2, 3), keepdim=True)) / x.var((2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(y, z * anchor.std + anchor.mean, rtol=1e-12, atol=0)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(2, 3, 3, padding=1)
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.point = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.point(self.down(self.same(x)))


def settings(model: nn.Module) -> list:
    return [(m.dilation, m.padding) for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_within_dilated_every_convolution_is_spread_and_sizes_stay():
    model, x = Convolutions().double(), latents(1, 2, 12, 14)
    same, down, point = model.same, model.down, model.point
    wanted = F.conv2d(x, same.weight, same.bias, padding=3, dilation=3)
    wanted = F.conv2d(wanted, down.weight, down.bias, stride=2, padding=3, dilation=3)
    wanted = F.conv2d(wanted, point.weight, point.bias)
    plain = model(x)
    with pieces.dilated(model, 3):
        assert torch.equal(model(x), wanted)
    assert torch.equal(model(x), plain) and plain.shape == wanted.shape


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_convolutions_get_their_settings_back_whatever_is_raised(error):
    model = Convolutions()
    before = settings(model)
    with pytest.raises(error), pieces.dilated(model, 4):
        assert settings(model) != before
        raise error
    assert settings(model) == before


def test_convolutions_that_cannot_be_spread_are_refused_before_any_is_changed():
    for words in ({"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, **words))
        with pytest.raises(ValueError, match="of the model's convolutions must be"), pieces.dilated(model, 2):
            pass
        assert settings(model)[0] == ((1, 1), (1, 1))


def test_the_rungs_of_16384_pixels_have_linfusions_sizes_strengths_and_lengths():
    pipe = type("Pipe", (), {"default_sample_size": 128, "vae_scale_factor": 8})
    found = sizes.doubled_sizes(pipe, 8192, 16384)
    assert found == [(512, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (8192, 16384)]
    strengths = sizes.falling_strengths(0.32, 4)
    assert strengths == pytest.approx((0.32, 0.24, 0.16, 0.08))
    lengths = [Tail(diffusers.EulerDiscreteScheduler(), 50, s, "cpu").length for s in strengths]
    assert lengths == [16, 12, 8, 4]
    assert sizes.doubled_sizes(pipe, 3072, 2000)[-1] == (4096, 4 * 664)  # 666.7 rounded to latents
    assert sizes.doubled_sizes(pipe, 768, 512) == [(768, 512)]
    rungs = {1: 0, 128: 0, 129: 1, 256: 1, 257: 2, 384: 2, 512: 2, 2048: 4}
    assert {side: sizes.doublings(side, 128) for side in rungs} == rungs


def test_part_of_a_step_counts_as_a_step_and_rounding_errors_do_not():
    tail = Tail(diffusers.DDIMScheduler(), 7, 0.32, "cpu")
    assert tail.length == 3 and torch.equal(tail.timesteps, tail.scheduler.timesteps[-3:])
    assert Tail(diffusers.DDIMScheduler(), 100, 0.07, "cpu").length == 7  # 7.000000000000001 in floats
    with pytest.raises(ValueError, match="strength must leave 1 to 7 of 7 steps, got 0: 0 steps"):
        Tail(diffusers.DDIMScheduler(), 7, 0, "cpu")


STEPPING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler", "DDPMScheduler")


@pytest.mark.parametrize("name", STEPPING)
def test_steps_and_noise_of_a_timestep_are_those_of_a_fresh_scheduler_however_often_they_are_taken(name):
    scheduler = getattr(diffusers, name)()
    tail = Tail(scheduler, 6, 0.5, "cpu")
    clean, noise, prediction = (latents(1, 4, 5, 6, seed=s).float() for s in (1, 2, 3))

    def step(scheduler, t):
        scheduler.scale_model_input(clean, t)
        words = {"generator": torch.Generator().manual_seed(3)}
        return scheduler.step(prediction, t, clean, return_dict=False, **words)[0]

    for i in (0, 2, 1):
        fresh = getattr(diffusers, name)()
        fresh.set_timesteps(6)
        noised = fresh.add_noise(clean, noise, fresh.timesteps[3 + i].reshape(1))
        assert torch.equal(tail.noised(i, clean, noise), noised)
        stepped = step(fresh, fresh.timesteps[3 + i])
        for _ in range(2):
            t = tail.rewind(i)
            assert t == fresh.timesteps[3 + i]
            assert torch.equal(step(scheduler, t), stepped)


HISTORY = ("PNDM", "LMSDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep")


@pytest.mark.parametrize("name", [*HISTORY, "DEISMultistep", "DPMSolverSinglestep"])
def test_schedulers_that_remember_are_refused_with_the_way_out(name):
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    with pytest.raises(ValueError, match=f"got {name}Scheduler, .*pipe.scheduler = EulerDiscreteScheduler"):
        check_scheduler(copy.deepcopy(scheduler))
