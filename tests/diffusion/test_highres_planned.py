"""Ladders within a memory plan: decoded straight to their files, equal to diffusers' decoding by tiles."""

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image

from linzoo.diffusion import highres, memory
from linzoo.diffusion.memory import MemoryPlanError

from .pipelines import build

PROMPT = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def same(a, b) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, map(np.asarray, a), map(np.asarray, b)))


def climb(kind: str, **changes) -> list:
    tiny = build(kind, **({"sample_size": 16} if kind == "sdxl" else {}))
    words = {name: value for name, value in tiny.inputs.items() if name in PROMPT}
    words |= {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(2), "tile": 32}
    if kind == "sdxl":
        return highres.sdxl_ladder(tiny.pipe, **{"height": 64, "width": 48} | words | changes)
    size = {"height": 64, "width": 96, "strengths": (0.5,)}
    return highres.ladder(tiny.pipe, **size | words | changes)


@pytest.fixture
def streaming(monkeypatch):
    """Plans with streamed decoding, in tiles of 32 pixels; counts the files that were written so."""
    written, real = [], memory.decode_to_file
    monkeypatch.setattr(memory, "plan", partial(memory.plan, measures=("vae_stream",), tile=32))
    monkeypatch.setattr(
        memory,
        "decode_to_file",
        lambda pipe, z, path, **words: written.append(path) or real(pipe, z, path, **words),
    )
    return written


@pytest.mark.parametrize("kind", ["sd", "flux", "sdxl"])
def test_a_streamed_ladder_equals_the_tiled_one_and_lies_in_its_files(kind, streaming, tmp_path):
    wanted = climb(kind)
    assert not streaming
    found = climb(kind, memory="auto", store=tmp_path / "store", output=tmp_path / "last.png")
    assert streaming == [tmp_path / "store" / "rung_0.png", tmp_path / "last.png"]
    assert same(found, wanted)
    with Image.open(tmp_path / "last.png") as file:
        assert same([file], wanted[-1:])


def test_a_streamed_ladder_without_files_returns_its_pictures(streaming):
    assert same(climb("flux", memory="auto"), climb("flux"))
    assert len(streaming) == 2


@pytest.mark.parametrize("kind", ["flux", "sdxl"])
def test_a_last_picture_that_will_not_fit_is_refused_before_the_first_is_drawn(kind):
    least = memory.plan(build(kind).pipe, 16, 16, memory=None).peak
    drawn, size = [], {"height": 256, "width": 256}
    with pytest.raises(MemoryPlanError, match=r"memory must be at least .* for 256 x 256"):
        climb(kind, memory=int(1.1 * least), callback_on_rung_end=lambda *a: drawn.append(a), **size)
    assert not drawn
