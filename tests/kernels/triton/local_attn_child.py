"""Runs local attention's kernels over its cases; one line a case, exit code 1 on an error.

TRITON_INTERPRET=1 python local_attn_child.py forward|backward|public|registration [case ...]

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
from local_attn_cases import Case, gradients, run, with_grad

from linzoo.kernels.linear_attn import triton_parts as shared_parts
from linzoo.kernels.local_attn import triton_launch, triton_tiles
from linzoo.kernels.local_attn.arguments import check_geometry
from linzoo.kernels.local_attn.reference import local_attn_reference

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_new_empty = torch.Tensor.new_empty


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A case, how its inputs lie in memory, parts that long rows are cut in, the size of the queries."""

    case: Case = field(default_factory=Case)
    dtype: str = "fp32"
    layout: str = "odd"
    splits: int | None = None
    size: float = 1.0
    slack: float = 1.0  # widens the tolerance where the mathematics cancels

    @property
    def sized(self) -> Case:
        return replace(self.case, dtype=DTYPES[self.dtype])


BASE = Case(B=1, H=1, D=16, E=16, grid=(9, 11))
HALO = replace(BASE, q_rows=(3, 7))
TRIALS = {
    "circle": Trial(case=replace(BASE, B=2, H=2, extra=3)),
    "circle_fp16": Trial(case=replace(BASE, extra=3), dtype="fp16", layout="fused"),
    "circle_bf16": Trial(case=replace(BASE, extra=3), dtype="bf16"),
    "fused_qkv": Trial(case=replace(BASE, H=2, D=32, E=32), layout="fused"),
    "heads_first": Trial(case=replace(BASE, H=2), layout="heads_first"),
    "no_unit_stride": Trial(case=BASE, layout="every_other"),
    "rectangle": Trial(case=replace(BASE, window="rectangle", n_global=0)),
    "wide_rectangle_bf16": Trial(case=replace(BASE, window="rectangle", D=64, E=64), dtype="bf16"),
    "one_token_window": Trial(case=replace(BASE, window="square1", n_global=0)),
    "not_whole_radius": Trial(case=replace(BASE, window="circle2.5")),
    "everything": Trial(case=replace(BASE, window="everything")),
    "text_last": Trial(case=replace(BASE, n_global=66, global_first=False, extra=66)),
    "text_last_bf16": Trial(case=replace(BASE, n_global=9, global_first=False, extra=4), dtype="bf16"),
    "split": Trial(case=replace(BASE, n_global=3, extra=2), splits=3),
    "split_bf16": Trial(case=replace(BASE, n_global=3, extra=2), splits=2, dtype="bf16"),
    "more_splits_than_blocks": Trial(case=replace(BASE, grid=(5, 6), n_global=3, extra=2), splits=5),
    "widths_differ": Trial(case=replace(BASE, D=24, E=40, H=3)),
    "values_of_three": Trial(case=replace(BASE, D=4, E=3)),
    "wide_128": Trial(case=replace(BASE, D=128, E=128, extra=3)),
    "wide_128_bf16": Trial(case=replace(BASE, D=128, E=128, extra=3), dtype="bf16"),
    "halo": Trial(case=replace(HALO, extra=3)),
    "halo_text_last_fp16": Trial(case=replace(HALO, global_first=False), dtype="fp16"),
    "halo_image_alone": Trial(case=replace(HALO, without_globals="q")),
    "halo_no_text": Trial(case=replace(HALO, without_globals="qk")),
    "text_alone": Trial(case=replace(BASE, q_rows=(3, 3), n_global=70, extra=2)),
    "text_of_another_band": Trial(case=replace(BASE, q_rows=(3, 3), without_globals="k")),
    "one_token": Trial(case=replace(BASE, grid=(1, 1), n_global=0), slack=10.0),
    "one_row": Trial(case=replace(BASE, grid=(1, 20), n_global=1)),
    "one_column": Trial(case=replace(BASE, grid=(20, 1), n_global=0)),
    "large_scores": Trial(case=BASE, size=100.0),
    "large_fp16": Trial(case=BASE, size=100.0, dtype="fp16"),
    "far_tokens": Trial(case=replace(BASE, grid=(1, 3), n_global=0, H=1), dtype="fp16", layout="far"),
    "far_batch_items": Trial(case=replace(BASE, B=3, grid=(1, 1), n_global=0), dtype="fp16", layout="far"),
    "far_heads": Trial(case=replace(BASE, grid=(1, 3), n_global=0, H=3), dtype="fp16", layout="far_heads"),
}


@dataclass
class Made:
    """Tensors of a trial as the launcher takes them, and the same as leaves in float64."""

    given: list[Tensor | None]
    exact: list[Tensor | None]
    geometry: object
    scale: float

    def wanted(self) -> tuple[Tensor, Tensor]:
        return local_attn_reference(*self.exact, self.geometry, self.scale)


def make(name: str, trial: Trial) -> Made:
    torch.manual_seed(len(name))
    case = trial.sized
    x = {n: inside_nan(t, trial.layout) for n, t in case.inputs(trial.size).items()}
    given = [x.get(n) for n in ("q", "k", "v", "extra_k", "extra_v")]
    words = {"radius": None, "window": None} | case.options()
    order = ("grid", "radius", "window", "n_global", "global_first", "q_rows")
    geometry = check_geometry(given[0], given[1], *(words[n] for n in order))
    exact = [None if t is None else t.double().requires_grad_() for t in given]
    return Made(given, exact, geometry, case.D**-0.5)


def compare(trial: Trial, what: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> tuple[str, float]:
    want = want.detach().to(got.dtype).double()  # rounded as the result is: float16 has few digits near zero
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    missing = int((~got.isfinite()).sum())
    assert not missing, f"{what}: not finite in {missing} of {got.numel()} cells"
    error = float((got.double() - want).norm() / want.norm().clamp(min=1e-30))
    assert error <= TOLERANCE[dtype] * max(trial.size, trial.slack), f"{what}: relative error {error:.2e}"
    return what, error


def forward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    y, lse = triton_launch.forward(*x.given, x.geometry, x.scale)
    assert y.dtype == x.given[0].dtype and y.is_contiguous() and lse.is_contiguous()
    want, want_lse = x.wanted()
    return [compare(trial, "y", y, want, y.dtype), compare(trial, "lse", lse, want_lse, torch.float32)]


def backward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    y, lse = x.wanted()
    dtype = x.given[0].dtype
    dy = torch.randn(y.shape).to(DEVICE, dtype)
    dlse = torch.randn(lse.shape).to(DEVICE)
    leaves = [t for t in x.exact if t is not None]
    loss = (y * dy.double()).sum() + (lse * dlse.double()).sum()
    wanted = torch.autograd.grad(loss, leaves, allow_unused=True)
    wanted = [torch.zeros_like(t) if w is None else w for t, w in zip(leaves, wanted, strict=True)]
    results = (y.detach().to(dtype), lse.detach().float())
    got = triton_launch.backward(dy, dlse, *x.given, *results, x.geometry, x.scale)
    assert [g is None for g in got] == [t is None for t in x.given]
    names = ("dq", "dk", "dv", "dextra_k", "dextra_v")[: len(leaves)]
    assert all(g.dtype == dtype and g.is_contiguous() for g in got if g is not None)
    found = []
    for name, g, w in zip(names, [g for g in got if g is not None], wanted, strict=True):
        # y is rounded before delta is formed from it: below float32 that error stays
        found.append(compare(trial, name, g, w, dtype))
    return found


def public(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """local_attn(backend="triton") with every gradient, through the registered op."""
    case = trial.sized
    names = ("q", "k", "v", "extra_k", "extra_v")
    own = with_grad({n: t for n, t in zip(names, x.given, strict=True) if t is not None})
    exact = {n: t for n, t in zip(names, x.exact, strict=True) if t is not None}
    got, wanted = run(case, "triton", **own), x.wanted()
    found = [compare(trial, "y", got[0].detach(), wanted[0], case.dtype)]
    grads, wanted_grads = gradients(*got, own), gradients(*wanted, exact)
    return found + [compare(trial, f"d{n}", g, wanted_grads[n], case.dtype) for n, g in grads.items()]


def registration(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Shapes, dtypes and strides that the ops promise to compilers are those that the launchers return."""
    words = (list(x.geometry), x.scale, "triton")
    y, lse = triton_launch.forward(*x.given, x.geometry, x.scale)
    calls = {"local_attn": (*x.given, *words), "local_attn_bwd": (y, lse, *x.given, y, lse, *words)}
    for name, args in calls.items():
        torch.library.opcheck(getattr(torch.ops.linzoo, name).default, args, test_utils="test_faketensor")
    return [(name, 0.0) for name in calls]


GROUPS = {f.__name__: f for f in (forward, backward, public, registration)}
FEW = ("circle", "halo", "text_last_bf16")  # of groups whose kernels are the same


def passes(group: str, name: str) -> bool:
    trial = TRIALS[name]
    triton_launch.split_count = triton_tiles.split_count if trial.splits is None else lambda *_: trial.splits
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
    assert shared_parts.INTERPRETED.value == (DEVICE == "cpu")
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False  # results are compared with full float32 products
    few = sys.argv[1] in ("public", "registration")
    chosen = sys.argv[2:] or (FEW if few else tuple(TRIALS))
    chosen = tuple(TRIALS)[::3] if chosen == ["sample"] else chosen
    passed = [passes(sys.argv[1], name) for name in chosen]
    print(f"{sum(passed)} of {len(passed)} passed", flush=True)
    sys.exit(not all(passed))
