"""The tiled decode by strips: diffusers' own tiled picture, bit for bit, and never whole in memory."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from PIL import Image

from linzoo.diffusion.memory import decode_to_file, decoded_rows
from linzoo.diffusion.memory.tiles import Tiling, set_tiling

from .pipelines import build, embeds, flow_vae, vae


def decoded(model, z, tile):
    from contextlib import ExitStack

    with ExitStack() as stack, torch.no_grad():
        set_tiling(stack, model, tile)
        return model.decode(z).sample


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", ((24, 40), (17, 33), (16, 9), (5, 40)), ids="{0[0]}x{0[1]}".format)
def test_the_strips_joined_are_diffusers_own_tiled_decode(size, dtype):
    model = vae().to(dtype)
    z = embeds(2, 4, *size).to(dtype)
    strips = list(decoded_rows(model, z, tile=16))  # 8 positions a tile, 6 apart
    assert torch.equal(torch.cat(strips, 2), decoded(model, z, 16))
    assert len(strips) == -(-size[0] // 6)


def test_a_latent_of_one_tile_is_decoded_whole():
    model, z = vae(), embeds(1, 4, 8, 8)
    (rows,) = decoded_rows(model, z, tile=16)
    with torch.no_grad():
        assert torch.equal(rows, model.decode(z).sample)


def test_tiles_blend():
    """Without blending the strips would differ: the claim above is not empty."""
    model, z = vae(), embeds(1, 4, 16, 16)
    rows = torch.cat(list(decoded_rows(model, z, tile=16)), 2)
    cut = Tiling.of(model, 16)
    with torch.no_grad():
        plain = model.decode(z[:, :, cut.stride : cut.stride + 8, :8]).sample
    edge = rows[:, :, cut.kept : cut.kept + cut.blend, :4]
    assert not torch.allclose(edge, plain[:, :, : cut.blend, :4], atol=1e-3)


def test_a_strip_is_decoded_only_when_it_is_asked_for(monkeypatch):
    model, calls = vae(), []
    real = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda z: calls.append(z.shape) or real(z))
    strips = decoded_rows(model, embeds(1, 4, 24, 16), tile=16)
    next(strips)
    assert len(calls) == 3  # of twelve


@pytest.mark.parametrize("tile", (15, 2, 0))
def test_a_tile_that_the_latent_grid_cannot_cut_is_refused(tile):
    with pytest.raises(ValueError, match=f"tile must be a multiple of 2 pixels, 8 or more, got {tile}"):
        next(decoded_rows(vae(), embeds(1, 4, 8, 8), tile=tile))


def file_of(tiny, path, latents, **words):
    decode_to_file(tiny.pipe, latents, path, tile=16, **words)
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("kind", ("sd", "sdxl", "sd3", "flux", "pixart_sigma"))
def test_the_file_is_the_picture_that_the_pipeline_makes_with_those_tiles(kind, tmp_path):
    tiny = build(kind)
    latents = tiny.run(output_type="latent")
    tiny.pipe.vae.enable_tiling()
    tiny.pipe.vae.tile_sample_min_size, tiny.pipe.vae.tile_latent_min_size = 16, 8
    want = np.asarray(tiny.pipe(**tiny.inputs | {"output_type": "pil", "generator": seeded()}).images[0])
    size = {"height": 32, "width": 48} if kind == "flux" else {}
    assert np.array_equal(file_of(tiny, tmp_path / "a.png", latents, **size), want)


def seeded():
    return torch.Generator().manual_seed(5)


def test_a_float16_vae_that_overflows_is_upcast_and_put_back(tmp_path):
    model = vae().half()
    model.register_to_config(force_upcast=True)
    z = embeds(1, 4, 16, 24).half()
    decode_to_file(model, z, tmp_path / "a.png", tile=16)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    model.float()
    decode_to_file(model, z.float(), tmp_path / "b.png", tile=16)
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab"))


def test_latents_that_carry_mean_and_deviation_are_restored_with_them(tmp_path):
    model, plain = vae(), vae()
    plain.load_state_dict(model.state_dict())
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.7, 1.0, 2.0]
    model.register_to_config(latents_mean=mean, latents_std=std)
    z = embeds(1, 4, 8, 8)
    restored = z * torch.tensor(std).view(1, 4, 1, 1) + torch.tensor(mean).view(1, 4, 1, 1) * 0.18215
    decode_to_file(model, z, tmp_path / "a.png")
    decode_to_file(plain, restored, tmp_path / "b.png")
    a, b = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in "ab")
    assert abs(a - b).max() <= 1


def test_progress_is_told_and_an_error_leaves_no_file(tmp_path):
    told = []

    def stop(done, rows):
        told.append((done, rows))
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_to_file(vae(), embeds(1, 4, 24, 16), tmp_path / "a.png", tile=16, progress=stop)
    assert told == [(12, 48), (24, 48)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(2, 4, 8, 8), r"latents must be of one picture, \(1, C, h, w\), got \(2, 4, 8, 8\)"),
        (torch.zeros(1, 6, 16), "height and width must be given with packed latents"),
    ],
    ids=["two pictures", "packed"],
)
def test_latents_of_another_form_are_refused(latents, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        decode_to_file(flow_vae(), latents, tmp_path / "a.png")
    with pytest.raises(ValueError, match="latents must have 4 tokens for 8 x 8, got 6"):
        decode_to_file(flow_vae(), torch.zeros(1, 6, 16), tmp_path / "a.png", height=8, width=8)
    with pytest.raises(TypeError, match="decode_to_file needs an AutoencoderKL, got Linear"):
        decode_to_file(torch.nn.Linear(1, 1), torch.zeros(1, 4, 8, 8), tmp_path / "a.png")
