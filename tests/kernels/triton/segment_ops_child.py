"""Runs the segment sums' kernel over its cases; one line a case, exit code 1 on an error.

TRITON_INTERPRET=1 python segment_ops_child.py [GROUP[,GROUP ...] [case ...]]

Without TRITON_INTERPRET the same cases run compiled, on the machine's GPU.
"""

import sys
import traceback
from dataclasses import dataclass, replace

import torch
from cases import DTYPES, inside_nan
from child import _guarded, check_guards, guarded_empty
from device import DEVICE, FLOAT32
from torch import Tensor

from linzoo.kernels import segment_gather, segment_sum
from linzoo.kernels.linear_attn import triton_parts
from linzoo.kernels.segment_ops import triton_launch
from linzoo.kernels.segment_ops.reference import segment_sum_reference

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {"fp32": FLOAT32, "fp16": 1e-3, "bf16": 8e-3}
SPAN = triton_launch.SPAN
_new_empty = torch.Tensor.new_empty


@dataclass(frozen=True, kw_only=True)
class Trial:
    rows: int = 60
    segments: int = 7
    channels: tuple[int, ...] = (5,)
    dtype: str = "fp32"
    span: int = SPAN
    lumped: bool = False  # nearly all rows in one segment


TRIALS = {
    "plain": Trial(),
    "many_rows_in_one": Trial(segments=3, lumped=True),
    "fp16": Trial(dtype="fp16"),
    "bf16": Trial(dtype="bf16"),
    "wider_than_a_tile": Trial(channels=(70,)),
    "several_dimensions": Trial(channels=(3, 4)),
    "no_channels": Trial(channels=()),
    "pieces": Trial(rows=90, segments=4, span=8),
    "pieces_of_one_segment": Trial(rows=90, segments=3, span=8, lumped=True),
    "pieces_fp16": Trial(rows=90, segments=2, span=20, dtype="fp16"),
    "whole_pieces": Trial(rows=64, segments=2, span=8, lumped=True),
    "more_segments_than_rows": Trial(rows=12, segments=30),
    "one_row": Trial(rows=1, segments=1),
    "no_rows": Trial(rows=0, segments=3),
    "no_segments": Trial(rows=0, segments=0),
}


def make(name: str, trial: Trial) -> tuple[Tensor, Tensor]:
    torch.manual_seed(len(name))
    x = torch.randn(trial.rows, *trial.channels).to(DTYPES[trial.dtype])
    index = torch.randint(max(trial.segments - 1, 1), (trial.rows,), device=DEVICE)
    if trial.lumped:
        index = torch.zeros_like(index)
    return inside_nan(x, "odd") if x.numel() else x.to(DEVICE), index


def compare(what: str, trial: Trial, got: Tensor, want: Tensor) -> tuple[str, float]:
    assert got.shape == want.shape and got.dtype == DTYPES[trial.dtype] and got.is_contiguous()
    missing = int((~got.isfinite()).sum())
    assert not missing, f"{what}: not finite in {missing} of {got.numel()} cells"
    error = float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))
    assert error <= TOLERANCE[trial.dtype], f"{what}: relative error {error:.2e}"
    return what, error


def sums(trial: Trial, x: Tensor, index: Tensor) -> list[tuple[str, float]]:
    y = triton_launch.segment_sum(x, index, trial.segments)
    again = triton_launch.segment_sum(x, index, trial.segments)
    assert torch.equal(y, again), "the same call gave other bits"
    return [compare("y", trial, y, segment_sum_reference(x.double(), index, trial.segments))]


def public(trial: Trial, x: Tensor, index: Tensor) -> list[tuple[str, float]]:
    """Both ops with backend="triton" and their gradients, through their registration."""
    leaf = x.detach().requires_grad_()
    y = segment_sum(leaf, index, trial.segments, backend="triton")
    found = [compare("y", trial, y.detach(), segment_sum_reference(x.double(), index, trial.segments))]
    dy = torch.randn(y.shape, device=DEVICE).to(y.dtype)
    (grad,) = torch.autograd.grad(y, leaf, dy)
    assert torch.equal(grad, dy[index]), "the gradient of a sum is a gather"
    state = dy.detach().requires_grad_()
    z = segment_gather(state, index, backend="triton")
    assert torch.equal(z, dy[index])
    (grad,) = torch.autograd.grad(z, state, x)
    found.append(compare("dgather", trial, grad, segment_sum_reference(x.double(), index, trial.segments)))
    args = (x, index, trial.segments, "triton")
    torch.library.opcheck(torch.ops.linzoo.segment_sum.default, args, test_utils="test_faketensor")
    return found


def far(trial: Trial, x: Tensor, index: Tensor) -> list[tuple[str, float]]:
    """Rows more than 2^31 elements into x (address space, whose pages are never touched)."""
    first, width = 2**26, 33
    rows = torch.empty(first + 6, width, dtype=torch.float16, device=DEVICE)
    rows[first:] = torch.randn(6, width, device=DEVICE).half()
    order = torch.arange(first, first + 6, device=DEVICE)
    edges = torch.tensor([0, 4, 6], dtype=torch.int32, device=DEVICE)
    y = rows.new_empty(2, width)
    triton_launch._sum_runs(rows, order, edges[:-1], edges[1:], y)
    want = torch.stack([part.double().sum(0) for part in rows[first:].split((4, 2))])
    return [compare("y", replace(trial, dtype="fp16"), y, want)]


GROUPS = {f.__name__: f for f in (sums, public, far)}
FEW = {"public": ("several_dimensions", "pieces"), "far": ("one_row",)}


def passes(group: str, name: str) -> bool:
    trial = TRIALS[name]
    triton_launch.SPAN = trial.span
    try:
        x, index = make(name, trial)
        if group == "sums":
            torch.Tensor.new_empty = guarded_empty
        results = GROUPS[group](trial, x, index)
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
    groups = sys.argv[1].split(",") if sys.argv[1:] else GROUPS
    passed = [passes(group, name) for group in groups for name in sys.argv[2:] or FEW.get(group, TRIALS)]
    print(f"{sum(passed)} of {len(passed)} passed", flush=True)
    sys.exit(not all(passed))
