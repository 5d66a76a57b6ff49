"""Every mixer, block and downsampling computes what the authors' code does, and so do the input gradients."""

import importlib

import pytest
import torch

from linzoo.vision.layers import Downsample, make_mixer, rope_table
from linzoo.vision.pyramid import Block

from ..parity_fill import assert_matches, figures, fill, random

RECORD = figures("mixers")
DIM, HEADS, SPATIAL = RECORD["dim"], RECORD["heads"], RECORD["spatial"]
# name in the record: (family whose names it has, registered mixer)
MIXERS = {
    "rala": ("ravlt", "rala"),
    "rala_softmax": ("ravlt", "softmax"),
    "mala": ("mala", "mala"),
    "nala": ("nalaformer", "nala"),
    "nala_softmax": ("nalaformer", "nala_softmax"),
}
BLOCKS = {
    "ravlt_block_l": ("ravlt", "rala"),
    "ravlt_block_v": ("ravlt", "softmax"),
    "mala_block_l": ("mala", "mala"),
    "mala_block_v": ("mala", "softmax"),
    "nalaformer_block_l": ("nalaformer", "nala"),
    "nalaformer_block_v": ("nalaformer", "nala_softmax"),
}


def load(module, family, entry, theirs, ours):
    """Fills a part, ``ours`` in the model and ``theirs`` in the authors', through the family's converter."""
    official = {f"{theirs}.{k}": v for k, v in fill(entry["state_dict"]).items()}
    # the fill is keyed by the bare module's names, so the prefix is added after it
    weights = importlib.import_module(f"linzoo.vision.{family}").from_official(official)
    module.load_state_dict({k.removeprefix(f"{ours}."): v for k, v in weights.items()})


def check(run, entry, dtype, output="output", gradient=True):
    tolerance, values = (1e-9, 1) if dtype == torch.float64 else (5e-6, 4)
    x = (random(entry["input"]["shape"], entry["input"]["seed"]) * entry["input"]["scale"]).to(dtype)
    x.requires_grad_(gradient)
    y = run(x)
    assert y.dtype == dtype
    assert_matches(y, entry[output], tolerance, output, values)
    if gradient:
        probe = random(y.shape, entry["probe_seed"]).to(dtype)
        (grad,) = torch.autograd.grad((y * probe).sum(), x)
        assert_matches(grad, entry["input_grad"], tolerance, "input_grad", values)


def on_image(module, dtype, rope=True):
    """A module on (B, H, W, C) as a function of a (B, C, H, W) image."""
    tables = rope_table(*SPATIAL, DIM // HEADS, torch.device("cpu"), dtype) if rope else None
    return lambda x: module(x.permute(0, 2, 3, 1), tables).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_mixer_and_its_gradient_equal_the_authors(name, dtype):
    family, mixer = MIXERS[name]
    entry = RECORD["mixers"][name]
    module = make_mixer(mixer, DIM, HEADS, dtype=torch.float64)
    assert sum(p.numel() for p in module.parameters()) == entry["params"]
    load(module, family, entry, "layers.0.blocks.0.attn", "stages.0.blocks.0.attn")
    check(on_image(module.to(dtype), dtype), entry, dtype)


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_without_its_local_enhancement_equals_the_authors(name):
    """lepe is most of the output, so this is where an error of the attention part shows."""
    family, mixer = MIXERS[name]
    entry = RECORD["mixers"][name]
    module = make_mixer(mixer, DIM, HEADS, dtype=torch.float64)
    load(module, family, entry, "layers.0.blocks.0.attn", "stages.0.blocks.0.attn")
    torch.nn.init.zeros_(module.lepe.weight)
    torch.nn.init.zeros_(module.lepe.bias)
    check(on_image(module, torch.float64), entry, torch.float64, "output_with_lepe_zeroed", gradient=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_and_its_gradient_equal_the_authors(name, dtype):
    family, mixer = BLOCKS[name]
    entry = RECORD["mixers"][name]
    second_pos = family == "nalaformer"
    module = Block(DIM, HEADS, mixer, 3.5, 1.0, second_pos, 0.0, dtype=torch.float64)
    load(module, family, entry, "layers.0.blocks.0", "stages.0.blocks.0")
    check(on_image(module.to(dtype), dtype), entry, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_downsampling_and_its_gradient_equal_the_authors(dtype):
    entry = RECORD["mixers"]["ravlt_downsample"]
    shapes = entry["state_dict"]
    out_dim, in_dim = next(s for k, s in shapes.items() if k.startswith("reduction.weight"))[:2]
    module = Downsample(in_dim, out_dim, dtype=torch.float64).eval()
    load(module, "ravlt", entry, "layers.0.downsample", "stages.1.downsample")
    check(module.to(dtype), entry, dtype)


def test_rotary_tables_equal_the_authors():
    cos, sin = rope_table(*SPATIAL, DIM // HEADS, torch.device("cpu"), torch.float32)
    assert_matches(cos, RECORD["rotary"]["cos"], 1e-7, "cos")
    assert_matches(sin, RECORD["rotary"]["sin"], 1e-7, "sin")
    theta = torch.atan2(sin[SPATIAL[1]], cos[SPATIAL[1]])[: DIM // HEADS // 2]  # the token at row 1, column 0
    assert torch.allclose(theta, torch.tensor(RECORD["rotary"]["angle"]), rtol=1e-6)
