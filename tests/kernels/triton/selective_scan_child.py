"""Runs the selective scan's kernels over its cases; one line a case, exit code 1 on an error.

TRITON_INTERPRET=1 python selective_scan_child.py forward|backward|public|registration [case ...]

Without TRITON_INTERPRET the same cases run compiled, on the machine's GPU.
"""

import sys
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from cases import DTYPES, inside_nan
from child import _guarded, check_guards, guarded_empty
from device import DEVICE, FLOAT32
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent))
from selective_cases import INPUTS, Case, by_pairs, gradients, with_grad

from linzoo.kernels.selective_scan import triton_launch
from linzoo.kernels.selective_scan.eager import Inputs

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 2e-3, torch.bfloat16: 2e-2}
NAMES = (*INPUTS, "initial")
_new_empty = torch.Tensor.new_empty


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A case, and how u, delta, B and C lie in memory."""

    case: Case = field(default_factory=Case)
    dtype: str = "fp32"
    layout: str = "odd"

    @property
    def sized(self) -> Case:
        return replace(self.case, dtype=DTYPES[self.dtype])


BASE = Case(rows=1, N=37, C=5, S=4)  # two chunks, the last of five tokens
TRIALS = {
    "rows": Trial(case=replace(BASE, rows=2, initial=True)),
    "reverse": Trial(case=replace(BASE, rows=2, reverse=True, skip=False)),
    "segments": Trial(case=replace(BASE, cu=(0, 0, 4, 37, 37), initial=True)),
    "segments_reverse": Trial(case=replace(BASE, cu=(0, 34, 37), reverse=True)),
    "tiles_of_channels": Trial(case=replace(BASE, N=9, C=37, S=16, initial=True)),
    "fp16": Trial(case=replace(BASE, N=9, S=16), dtype="fp16"),
    "bf16": Trial(case=replace(BASE, N=9, S=16), dtype="bf16"),
    "three_states": Trial(case=replace(BASE, N=5, S=3)),
    "one_of_all": Trial(case=replace(BASE, N=1, C=1, S=1)),
    "many_states": Trial(case=replace(BASE, N=5, C=3, S=100)),
    "no_unit_stride": Trial(case=replace(BASE, N=9), layout="every_other"),
    "strong_decays": Trial(case=replace(BASE, strength=3000.0, initial=True)),
    "far_tokens": Trial(case=replace(BASE, N=3), layout="far", dtype="fp16"),
    "far_rows": Trial(case=replace(BASE, N=1, rows=3), layout="far", dtype="fp16"),
}


@dataclass
class Made:
    """Tensors of a trial as the launcher takes them, and the same as leaves in float64."""

    given: dict[str, Tensor]
    exact: dict[str, Tensor]

    def inputs(self, case: Case) -> Inputs:
        options = case.options()
        cu = options["cu_seqlens"]
        cu = None if cu is None else cu.to(DEVICE)
        return Inputs(*(self.given.get(name) for name in NAMES), cu, options["reverse"])


def make(name: str, trial: Trial) -> Made:
    torch.manual_seed(len(name))
    x = trial.sized.inputs()
    given = {
        n: inside_nan(t.unsqueeze(2), trial.layout).squeeze(2)
        if n in ("u", "delta", "B", "C")
        else t.to(DEVICE)
        for n, t in x.items()
    }
    return Made(given, {n: t.double().requires_grad_() for n, t in x.items()})


def compare(what: str, got: Tensor, want: Tensor) -> tuple[str, float]:
    want = want.detach().to(got.dtype).double()  # rounded as the result is
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    missing = int((~got.isfinite()).sum())
    assert not missing, f"{what}: not finite in {missing} of {got.numel()} cells"
    error = float((got.cpu().double() - want).norm() / want.norm().clamp(min=1e-30))
    return what, error


def within(found: list[tuple[str, float]], dtype: torch.dtype) -> list[tuple[str, float]]:
    for what, error in found:
        assert error <= TOLERANCE[dtype], f"{what}: relative error {error:.2e}"
    return found


def forward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    case = trial.sized
    y, state, _ = triton_launch.forward(x.inputs(case), keep=False)
    assert y.dtype == case.dtype and y.is_contiguous() and state.is_contiguous()
    want = by_pairs(case, x.exact)
    return within([compare("y", y, want["y"]), compare("state", state, want["state"])], case.dtype)


def backward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    case = trial.sized
    want = by_pairs(case, x.exact)
    dy = torch.randn(want["y"].shape).to(case.dtype)
    dstate = torch.randn(want["state"].shape)
    loss = (want["y"] * dy.double()).sum() + (want["state"] * dstate.double()).sum()
    wanted = dict(zip(x.exact, torch.autograd.grad(loss, list(x.exact.values())), strict=True))
    inputs = x.inputs(case)
    kept = triton_launch.forward(inputs, keep=True)[2]
    got = triton_launch.backward(dy.to(DEVICE), dstate.to(DEVICE), inputs, kept)
    assert [g is None for g in got] == [name not in x.given for name in NAMES]
    pairs = [(n, g) for n, g in zip(NAMES, got, strict=True) if g is not None]
    assert all(g.dtype == x.given[n].dtype and g.is_contiguous() for n, g in pairs)
    return within([compare(f"d{n}", g, wanted[n]) for n, g in pairs], case.dtype)


def public(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """selective_scan(backend="triton") with every gradient, through the registered op."""
    from linzoo.kernels import selective_scan

    case, own = trial.sized, with_grad(x.given)
    options = case.options()
    cu = options["cu_seqlens"]
    options["cu_seqlens"] = None if cu is None else cu.to(DEVICE)
    y, state = selective_scan(**own, **options, backend="triton")
    got, wanted = {"y": y, "state": state}, by_pairs(case, x.exact)
    found = [compare(n, t.detach(), wanted[n]) for n, t in got.items()]
    grads, wanted_grads = gradients(got, own), gradients(wanted, x.exact)
    return within(found + [compare(f"d{n}", g, wanted_grads[n]) for n, g in grads.items()], case.dtype)


def registration(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Shapes, dtypes and strides that the ops promise to compilers are those that the launchers return."""
    inputs = x.inputs(trial.sized)
    y, state, kept = triton_launch.forward(inputs, keep=True)
    tensors, reverse = inputs[:8], inputs.reverse
    calls = {"selective_scan": (*tensors, reverse, True, "triton")}
    calls["selective_scan_bwd"] = (y, state, kept, *tensors, reverse, "triton")
    for name, args in calls.items():
        torch.library.opcheck(getattr(torch.ops.linzoo, name).default, args, test_utils="test_faketensor")
    return [(name, 0.0) for name in calls]


GROUPS = {f.__name__: f for f in (forward, backward, public, registration)}
FEW = ("rows", "segments")  # of groups whose kernels are the same


def passes(group: str, name: str) -> bool:
    trial = TRIALS[name]
    try:
        x = make(name, trial)
        if group != "registration":  # which compares storage offsets too
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
    torch.set_num_threads(1)
    chosen = sys.argv[2:] or (FEW if sys.argv[1] in ("public", "registration") else tuple(TRIALS))
    passed = [passes(sys.argv[1], name) for name in chosen]
    print(f"{sum(passed)} of {len(passed)} passed", flush=True)
    sys.exit(not all(passed))
