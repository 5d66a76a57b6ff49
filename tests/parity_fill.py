"""Deterministic weights and inputs for the files in tests/figures, and comparison with what they record."""

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

FIGURES = Path(__file__).parent / "figures"


def figures(name: str) -> dict:
    return json.loads(gzip.decompress((FIGURES / f"{name}.json.gz").read_bytes()))


def random(shape, seed: int) -> torch.Tensor:
    """Standard normal, float64: an input, or with seed 7 the probe of a gradient."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def fill_tensor(key: str, shape, rounded: bool = True) -> torch.Tensor:
    """The weight of an official key: drawn by the key's checksum; rounded to float32 and widened again."""
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if last == "running_var":
        n = 1 + 0.1 * np.abs(n)
    elif last == "running_mean":
        n = 0.1 * n
    elif sum(size > 1 for size in n.shape) <= 1:
        n = 0.1 * n if "bias" in last else 1 + 0.1 * n
    else:
        n /= np.sqrt(n.size / n.shape[0])
    n = np.asarray(n)
    return torch.from_numpy(n.astype(np.float32) if rounded else n).double()


def fill(shapes: dict, keep=(), rounded: bool = True) -> dict[str, torch.Tensor]:
    """Official names to weights, float64. Rotary tables (``keep``) hold what the authors' code builds.

    Some figures were made of weights that were ``rounded`` to float32 first, some (InLine's) were not.
    """
    out = {}
    for key, shape in shapes.items():
        if key.rsplit(".", 1)[-1] in keep:
            theta = 1.0 / 10000 ** torch.linspace(0, 1, shape[0] // 2)
            out[key] = theta.repeat_interleave(2)
        else:
            out[key] = fill_tensor(key, shape, rounded)
    return out


def condition(state_dict: dict, conditioned: dict) -> dict[str, torch.Tensor]:
    """The fill in which position convolutions are scaled down; needs official names."""
    matches = re.compile(conditioned["regex"]).search
    return {k: v * conditioned["factor"] if matches(k) else v for k, v in state_dict.items()}


def assert_matches(
    tensor: torch.Tensor, figure: dict, tolerance: float, what: str = "output", values: float = 1.0
) -> None:
    """The l2 norm agrees relatively, and the first and last 16 values within values * tolerance * rms."""
    got = tensor.detach().double()
    assert list(got.shape) == figure["shape"], f"{what}: shape {list(got.shape)}, recorded {figure['shape']}"
    got = got.flatten()
    rms = figure["l2"] / got.numel() ** 0.5
    error = abs(got.norm().item() - figure["l2"]) / figure["l2"]
    assert error <= tolerance, f"{what}: l2 norm is off by {error:.2e} (tolerance {tolerance:.0e})"
    for end, part in (("first", got[:16]), ("last", got[-16:])):
        off = (part - torch.tensor(figure[end], dtype=torch.float64)).abs().max().item() / rms
        bound = values * tolerance
        assert off <= bound, f"{what}: {end} values are off by {off:.2e} rms (tolerance {bound:.0e})"
