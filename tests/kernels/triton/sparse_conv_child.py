"""Runs the sparse convolutions' kernels over their cases; one line a case, exit code 1 on an error.

TRITON_INTERPRET=1 python sparse_conv_child.py [GROUP[,GROUP ...] [case ...]]

Without TRITON_INTERPRET the same cases run compiled, on the machine's GPU.
"""

import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cases import DTYPES, inside_nan
from child import _guarded, check_guards, guarded_empty
from device import DEVICE, FLOAT32
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent))
from sparse_conv_cases import Case, gradients

from linzoo.kernels import ConvPairs, depthwise_sparse_conv, sparse_conv
from linzoo.kernels.linear_attn import triton_parts
from linzoo.kernels.sparse_conv import depthwise_triton, triton_launch, triton_tiles
from linzoo.kernels.sparse_conv.reference import depthwise_sparse_conv_reference, sparse_conv_reference

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_new_empty = torch.Tensor.new_empty


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A case, parts that a kernel cell's pairs are summed in, and rows of a tile."""

    case: Case
    dtype: str = "fp32"
    splits: int | None = None

    @property
    def sized(self) -> Case:
        return replace(self.case, dtype=DTYPES[self.dtype])


BASE = Case(shape=(3, 5, 6), occupied=0.8, cin=16, cout=16, shuffled=True)
STRIDED = replace(BASE, stride=(2, 2, 2), padding=(1, 1, 1), shape=(5, 6, 7))
THIN = replace(BASE, kernel=(1, 1, 3))
TRIALS = {
    "submanifold": Trial(case=BASE),
    "submanifold_bf16": Trial(case=replace(BASE, cin=32), dtype="bf16"),
    "strided": Trial(case=STRIDED),
    "strided_fp16": Trial(case=STRIDED, dtype="fp16"),
    "height": Trial(case=replace(BASE, kernel=(3, 1, 1), stride=(2, 1, 1), cin=8, cout=24)),
    "thin_bf16": Trial(case=THIN, dtype="bf16"),
    "widths_of_no_tile": Trial(case=replace(THIN, cin=70, cout=9)),
    "wider_than_a_tile": Trial(case=replace(THIN, cin=40, cout=130, shape=(2, 3, 5))),
    "one_channel": Trial(case=replace(THIN, cin=1, cout=1)),
    "split": Trial(case=replace(THIN, shape=(3, 9, 9)), splits=3),
    "more_splits_than_blocks": Trial(case=replace(THIN, shape=(1, 3, 6), batch=1), splits=4),
    "one_row": Trial(case=replace(THIN, shape=(1, 1, 1), batch=1, occupied=1.0)),
    "no_rows": Trial(case=replace(THIN, occupied=0.0)),
    "many_kernel_cells": Trial(case=replace(BASE, kernel=(5, 5, 5), shape=(2, 2, 2), cin=4, cout=4)),
}


@dataclass
class Made:
    """The pairs on the device, tensors inside NaN by name, and the same as leaves in float64."""

    pairs: ConvPairs
    given: dict[str, Tensor]
    exact: dict[str, Tensor]

    def lists(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.pairs.inputs, self.pairs.outputs, self.pairs.device_offsets()


def make(name: str, trial: Trial) -> Made:
    torch.manual_seed(len(name))
    case = trial.sized
    coords = case.coords().to(DEVICE)
    pairs, _, _ = case.pairs(coords)
    given = {}
    for what, x in case.inputs(len(coords)).items():
        x = x.detach()
        given[what] = inside_nan(x, "odd") if x.numel() else x.to(DEVICE)
    exact = {what: x.double().requires_grad_() for what, x in given.items()}
    return Made(pairs, given, exact)


def compare(what: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> tuple[str, float]:
    want = want.detach().to(got.dtype).double()  # rounded as the result is
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    missing = int((~got.isfinite()).sum())
    assert not missing, f"{what}: not finite in {missing} of {got.numel()} cells"
    error = float((got.double() - want).norm() / want.norm().clamp(min=1e-30))
    assert error <= TOLERANCE[dtype], f"{what}: relative error {error:.2e}"
    return what, error


def forward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    found = []
    for bias in (None, x.given["bias"]):
        y = triton_launch.forward(x.given["x"], x.given["weight"], bias, x.pairs.table())
        own = None if bias is None else x.exact["bias"]
        want = sparse_conv_reference(x.exact["x"], x.exact["weight"], own, x.pairs)
        assert y.dtype == trial.sized.dtype and y.is_contiguous()
        found.append(compare("y" if bias is None else "y with bias", y, want, y.dtype))
    return found


def _backward(trial: Trial, x: Made, module, weight: str, y: Tensor) -> list[tuple[str, float]]:
    dtype = trial.sized.dtype
    dy = torch.randn(y.shape, device=DEVICE).to(dtype)
    want = torch.autograd.grad(y, (x.exact["x"], x.exact[weight]), dy.double())
    args = (dy, x.given["x"], x.given[weight], *x.lists(), x.pairs.transposed_table())
    got = module.backward(*args, True, True)
    assert [g.dtype for g in got] == [dtype] * 2 and all(g.is_contiguous() for g in got)
    assert module.backward(*args, True, False)[1] is None and module.backward(*args, False, True)[0] is None
    return [compare(n, g, w, dtype) for n, g, w in zip(("dx", "dweight"), got, want, strict=True)]


def backward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    y = sparse_conv_reference(x.exact["x"], x.exact["weight"], None, x.pairs)
    return _backward(trial, x, triton_launch, "weight", y)


def depthwise(trial: Trial, x: Made) -> list[tuple[str, float]]:
    y = depthwise_triton.forward(x.given["x"], x.given["scales"], x.pairs.table())
    want = depthwise_sparse_conv_reference(x.exact["x"], x.exact["scales"], x.pairs)
    assert y.dtype == trial.sized.dtype and y.is_contiguous()
    found = [compare("y", y, want, y.dtype)]
    return found + _backward(trial, x, depthwise_triton, "scales", want)


def _both(x: dict[str, Tensor], pairs: ConvPairs, backend: str) -> Tensor:
    y = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"], backend=backend)
    return torch.cat((y, depthwise_sparse_conv(x["x"], x["scales"], pairs, backend=backend)), 1)


def public(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Both ops with backend="triton" and every gradient, through their registration; and "auto" on a GPU."""
    own = {name: t.detach().requires_grad_() for name, t in x.given.items()}
    got = _both(own, x.pairs, "triton")
    want = _both(x.exact, x.pairs, "reference")
    found = [compare("y", got.detach(), want, got.dtype)]
    wanted = gradients(want, x.exact)
    found += [compare(f"d{n}", g, wanted[n], g.dtype) for n, g in gradients(got, own).items()]
    if DEVICE == "cuda":
        assert torch.equal(_both(own, x.pairs, "auto"), got)
    return found


def registration(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Shapes, dtypes and strides that the ops promise to compilers are those that the launchers return."""
    given, pairs = x.given, x.pairs
    tables = (pairs.table(), pairs.transposed_table())
    forward = (*x.lists(), *tables, pairs.n_out, pairs.identity, "triton")
    back = (*x.lists(), tables[1], pairs.identity, True, True, "triton")
    y = given["x"].new_zeros(pairs.n_out, given["weight"].shape[0])
    z = given["x"].new_zeros(pairs.n_out, given["x"].shape[1])
    calls = {
        "sparse_conv": (given["x"], given["weight"], given["bias"], *forward),
        "sparse_conv_bwd": (y, given["x"], given["weight"], *back),
        "depthwise_sparse_conv": (given["x"], given["scales"], *forward),
        "depthwise_sparse_conv_bwd": (z, given["x"], given["scales"], *back),
    }
    for name, args in calls.items():
        torch.library.opcheck(getattr(torch.ops.linzoo, name).default, args, test_utils="test_faketensor")
    return [(name, 0.0) for name in calls]


def compiled(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """torch.compile takes the ops, and the tables that they are made to read, as one graph."""
    own = {name: t.detach().requires_grad_() for name, t in x.given.items()}
    want = _both(own, x.pairs, "triton")
    fresh = replace(x.pairs, cache={})
    fast = torch.compile(lambda x, p: _both(x, p, "triton"), fullgraph=True, backend="aot_eager")
    got = fast(own, fresh)
    assert not fresh.cache, "a traced tensor was kept"
    wanted = gradients(want, own)
    found = [compare("y", got.detach(), want, got.dtype)]
    return found + [compare(f"d{n}", g, wanted[n], g.dtype) for n, g in gradients(got, own).items()]


def far(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Rows more than 2^31 elements into the features (address space, whose pages are never touched)."""
    first, width = 2**26, 33
    rows = torch.arange(6, device=DEVICE)
    features = torch.empty(first + 6, width, dtype=torch.float16, device=DEVICE)
    features[first:] = torch.randn(6, width, device=DEVICE).half()
    near = ConvPairs(
        inputs=rows,
        outputs=rows.flip(0),
        offsets=torch.tensor([0, 6]),
        n_in=6,
        n_out=6,
        kernel_size=(1, 1, 1),
    )
    pairs = replace(near, inputs=rows + first, n_in=first + 6, cache={})
    weight, scales = (
        torch.randn(shape, device=DEVICE).half() for shape in ((4, 1, 1, 1, width), (1, 1, 1, width))
    )
    own = features[first:].double()
    dy, dz = (torch.randn(6, n, device=DEVICE).half() for n in (4, width))
    lists = (pairs.inputs, pairs.outputs, pairs.device_offsets(), None)
    calls = {
        "y": (
            triton_launch.forward(features, weight, None, pairs.table()),
            sparse_conv_reference(own, weight, None, near),
        ),
        "dweight": (
            triton_launch.backward(dy, features, weight, *lists, False, True)[1],
            (dy.double().flip(0).t() @ own).view(weight.shape),
        ),
        "depthwise y": (
            depthwise_triton.forward(features, scales, pairs.table()),
            depthwise_sparse_conv_reference(own, scales, near),
        ),
        "depthwise dweight": (
            depthwise_triton.backward(dz, features, scales, *lists, False, True)[1],
            (dz.double().flip(0) * own).sum(0).view(scales.shape),
        ),
    }
    return [compare(what, *results, torch.float16) for what, results in calls.items()]


GROUPS = {f.__name__: f for f in (forward, backward, depthwise, public, registration, compiled, far)}
SPLITS = ("split", "more_splits_than_blocks", "one_row", "no_rows")
FEW = {
    "backward": ("submanifold", "strided_fp16", "height", "thin_bf16", "wider_than_a_tile", *SPLITS),
    "depthwise": ("submanifold", "strided_fp16", "thin_bf16", "widths_of_no_tile", *SPLITS),
    "public": ("submanifold", "thin_bf16"),
    "registration": ("split", "height"),
    "compiled": ("split",),
    "far": ("one_row",),
}


def passes(group: str, name: str) -> bool:
    trial = TRIALS[name]
    count = triton_tiles.split_count if trial.splits is None else lambda *_: trial.splits
    triton_launch.split_count = depthwise_triton.split_count = count
    try:
        x = make(name, trial)
        if group in ("forward", "backward", "depthwise"):  # others look at storage offsets, or trace
            torch.Tensor.new_empty = guarded_empty
        results = GROUPS[group](trial, x)
        check_guards()
    except Exception as error:
        traceback.print_exc()
        print(f"FAIL {group} {name}: {type(error).__name__}: {error}", flush=True)
        return False
    finally:
        torch.Tensor.new_empty = _new_empty
        _guarded.clear()
    print(f"ok {group} {name}: " + ", ".join(f"{what} {error:.1e}" for what, error in results), flush=True)
    return True


if __name__ == "__main__":
    assert triton_parts.INTERPRETED.value == (DEVICE == "cpu")
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False  # results are compared with full float32 products
    groups = sys.argv[1].split(",") if sys.argv[1:] else GROUPS
    passed = [passes(group, name) for group in groups for name in sys.argv[2:] or FEW.get(group, TRIALS)]
    print(f"{sum(passed)} of {len(passed)} passed", flush=True)
    sys.exit(not all(passed))
