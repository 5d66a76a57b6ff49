"""``linzoo bench sparse-conv``: the eager submanifold convolution against spconv on a CPU.

64 to 64 channels, 3 x 3 x 3, float32, pair lists made beforehand on both sides. Voxel sets are a rolling
surface (about 7 pairs a voxel, as LiDAR frames have) and random cells (about 3). One thread, process CPU
time, all variants interleaved. spconv takes part where it is installed; its backward asks torch for a CUDA
stream, also on a CPU, and that one lookup is answered here.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_rows import compared, cpu_seconds, interleaved, ratio_text

SETS = ("surface", "random")
SIZES = (20_000, 40_000, 60_000)
CHANNELS = 64
KERNEL = (3, 3, 3)
RESULTS = Path(__file__).parent / "results" / "sparse-conv-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--voxels", action="append", choices=SETS, help="repeatable; default: both")
    parser.add_argument(
        "--size", action="append", type=int, metavar="N", help=f"voxels, repeatable; default: {SIZES}"
    )
    parser.add_argument("--only", choices=("forward", "training"), help="one of the two passes")
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    sizes = tuple(args.size or SIZES)
    if min(sizes) < 100:
        raise ValueError(f"--size must be >= 100 voxels, got {min(sizes)}")
    if not has_spconv():
        print("spconv: not installed (pip install spconv), so it is not timed")
    passes = [args.only] if args.only else ["forward", "training"]
    rows = (
        lambda words=(voxels, size, kind): bench(*words, args.rounds)
        for voxels in args.voxels or SETS
        for size in sizes
        for kind in passes
    )
    return bench_rows.run(args, "linzoo bench sparse-conv --save", rows, line)


def has_spconv() -> bool:
    return find_spec("spconv") is not None


def bench(voxels: str, size: int, kind: str, rounds: int) -> dict[str, Any]:
    """One row: every variant's times, and how many times longer than ours each takes."""
    import torch

    from ..kernels import submanifold_pairs

    coords, shape = surface(size) if voxels == "surface" else scattered(size)
    pairs = submanifold_pairs(coords, shape)
    x = torch.randn(len(coords), CHANNELS)
    weight = torch.randn(CHANNELS, *KERNEL, CHANNELS) / (27 * CHANNELS) ** 0.5
    variants = {"eager": eager(pairs), "autograd": by_autograd(pairs)}
    if has_spconv():
        variants["spconv"] = spconv(coords, shape, weight)
    step = training if kind == "training" else forward
    calls = {name: lambda call=call: step(call, x, weight) for name, call in variants.items()}
    with spconv_backward_on_a_cpu():
        times = interleaved(calls, rounds)
        difference = max(float((calls[n]()[0] - calls["eager"]()[0]).abs().max()) for n in calls)
    row: dict[str, Any] = {"voxels": voxels, "size": len(coords), "pass": kind, "rounds": rounds}
    row["pairs_per_voxel"] = round(len(pairs) / len(coords), 2)
    row |= compared(times, "eager")
    row["pair_lists_ms"] = round(1e3 * cpu_seconds(lambda: submanifold_pairs(coords, shape)), 1)
    return row | {"largest_difference": difference}


def surface(size: int) -> tuple[Any, tuple[int, int, int]]:
    """A height over each cell of a square: hills of some 12 cells, steep enough to break in places."""
    import torch
    from torch.nn.functional import interpolate

    side = round(size**0.5)
    generator = torch.Generator().manual_seed(size)
    hills = torch.rand(1, 1, side // 12 + 2, side // 12 + 2, generator=generator)
    height = interpolate(hills, size=(side, side), mode="bicubic")[0, 0].mul(26).long().clamp(0, 39)
    y, x = (line.flatten() for line in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    coords = torch.stack((torch.zeros_like(y), height.flatten(), y, x), 1)
    order = torch.argsort((coords[:, 1] * side + y) * side + x)
    return coords[order], (40, side, side)


def scattered(size: int) -> tuple[Any, tuple[int, int, int]]:
    """Cells drawn at random, one in thirteen."""
    import torch

    side = round((13 * size / 40) ** 0.5)
    generator = torch.Generator().manual_seed(size)
    cells = torch.randperm(40 * side * side, generator=generator)[:size].sort().values
    parts = (torch.zeros_like(cells), cells // side**2, cells // side % side, cells % side)
    return torch.stack(parts, 1), (40, side, side)


def eager(pairs: Any) -> Callable[..., Any]:
    from ..kernels import sparse_conv

    return lambda x, weight: sparse_conv(x, weight, pairs, backend="eager")


def by_autograd(pairs: Any) -> Callable[..., Any]:
    """The same products cell by cell, with every gather and addition recorded by autograd."""
    edges = pairs.offsets.tolist()

    def run(x: Any, weight: Any) -> Any:
        y = x.new_zeros(pairs.n_out, weight.shape[0])
        for k, by_cell in enumerate(weight.flatten(1, 3).unbind(1)):
            own = slice(edges[k], edges[k + 1])
            y = y.index_add(0, pairs.outputs[own], x[pairs.inputs[own]] @ by_cell.t())
        return y

    return run


def spconv(coords: Any, shape: tuple[int, int, int], weight: Any) -> Callable[..., Any]:
    """spconv's own module and pair lists (native algorithm, the one that it has on a CPU)."""
    import torch
    from spconv.core import ConvAlgo
    from spconv.pytorch import SparseConvTensor, SubMConv3d

    module = SubMConv3d(CHANNELS, CHANNELS, 3, bias=False, indice_key="k", algo=ConvAlgo.Native)
    rows = coords.int()

    def convolved(x: Any, weight: Any, known: dict | None) -> Any:
        voxels = SparseConvTensor(x, rows, list(shape), 1, indice_dict=known)
        return torch.func.functional_call(module, {"weight": weight}, (voxels,))

    known = convolved(torch.zeros(len(coords), CHANNELS), weight, None).indice_dict  # the pair lists
    return lambda x, weight: convolved(x, weight, known).features


@contextmanager
def spconv_backward_on_a_cpu() -> Iterator[None]:
    """Inside, spconv's question for the current CUDA stream is answered by 0."""
    if not has_spconv():
        yield
        return
    from spconv.pytorch import ops

    asked = ops.get_current_stream
    ops.get_current_stream = lambda: 0
    try:
        yield
    finally:
        ops.get_current_stream = asked


def forward(call: Callable[..., Any], x: Any, weight: Any) -> tuple[Any, ...]:
    import torch

    with torch.no_grad():
        return (call(x, weight),)


def training(call: Callable[..., Any], x: Any, weight: Any) -> tuple[Any, ...]:
    import torch

    leaves = (x.detach().requires_grad_(), weight.detach().requires_grad_())
    y = call(*leaves)
    return (torch.cat([g.flatten() for g in torch.autograd.grad(y, leaves, y.detach())]),)


def line(row: dict[str, Any]) -> str:
    own, name = row["ms"]["eager"], f"{row['voxels']} {row['size']} ({row['pairs_per_voxel']} pairs a voxel)"
    return (
        f"{name:>38} {row['pass']}: {ratio_text(row)} | eager {own['median']} ms "
        f"({own['min']}-{own['max']}), pair lists {row['pair_lists_ms']} ms"
    )
