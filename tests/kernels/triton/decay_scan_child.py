"""Runs the decayed scan's kernels over its cases; one line a case, exit code 1 on an error.

TRITON_INTERPRET=1 python decay_scan_child.py forward|backward|public|registration [case ...]

Without TRITON_INTERPRET the same cases run compiled, on the machine's GPU.
"""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from cases import DTYPES, inside_nan
from child import _guarded, check_guards, guarded_empty
from device import DEVICE, FLOAT32
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent))
from decay_cases import Case, gradients, run

from linzoo.kernels.decay_scan import triton_launch
from linzoo.kernels.decay_scan.eager import Inputs, Words
from linzoo.kernels.decay_scan.reference import decay_scan_reference
from linzoo.kernels.linear_attn import triton_parts as shared_parts

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_new_empty = torch.Tensor.new_empty


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A case, how its inputs lie in memory, what its log decays become, how much its errors may grow."""

    case: Case = field(default_factory=Case)
    dtype: str = "fp32"
    layout: str = "odd"
    decays: Callable[[Tensor], Tensor] = lambda g: g
    decays_dtype: torch.dtype = torch.float32
    slack: float = 1.0

    @property
    def sized(self) -> Case:
        return replace(self.case, dtype=DTYPES[self.dtype])


def mixed(g: Tensor) -> Tensor:
    """Strong decays beside ones that are hardly any."""
    return torch.where(g > -0.1, -50.0, 0.02 * g)


def resets(g: Tensor) -> Tensor:
    return torch.where(g > -0.1, -torch.inf, 0.02 * g)


SEGMENTS = (0, 0, 3, 3, 40, 41, 75, 75)  # empty ones first, inside and last
BASE = Case(B=1, N=75, H=1, D=16, E=16, initial=True)
TOKEN, CONSTANT = replace(BASE, kind="token"), replace(BASE, kind="constant")
PACKED = {"cu": SEGMENTS, "H": 2}
TRIALS = {
    "channel": Trial(case=replace(BASE, B=2, H=2)),
    "channel_fp16": Trial(case=BASE, dtype="fp16", layout="fused"),
    "channel_bf16": Trial(case=BASE, dtype="bf16"),
    "channel_packed": Trial(case=replace(BASE, **PACKED, reverse=True)),
    "channel_no_initial": Trial(case=replace(BASE, initial=False), layout="heads_first"),
    "channel_strong": Trial(case=replace(BASE, strength=30.0)),
    "channel_mixed": Trial(case=BASE, decays=mixed),
    "channel_resets": Trial(case=BASE, decays=resets),
    "channel_float64_decays": Trial(case=BASE, decays_dtype=torch.float64),
    "rwkv": Trial(case=replace(BASE, form="rwkv", H=2)),
    "rwkv_reverse_packed_bf16": Trial(case=replace(BASE, form="rwkv", reverse=True, **PACKED), dtype="bf16"),
    "bonus": Trial(case=replace(BASE, form="bonus", reverse=True), layout="fused"),
    "exclusive": Trial(case=replace(BASE, form="exclusive", reverse=True)),
    "widths_differ": Trial(case=replace(BASE, D=24, E=40, H=3, N=35)),
    "values_of_three": Trial(case=replace(BASE, D=4, E=3, N=35)),
    "keys_and_values_tiled": Trial(case=replace(BASE, D=72, E=136, N=40), slack=2.0),
    "keys_and_values_tiled_bf16": Trial(case=replace(BASE, D=136, E=72, N=40, form="bonus"), dtype="bf16"),
    "token": Trial(case=replace(TOKEN, B=2, H=2)),
    "token_bf16": Trial(case=TOKEN, dtype="bf16", layout="fused"),
    "token_fp16_packed": Trial(case=replace(TOKEN, **PACKED), dtype="fp16"),
    "token_mixed": Trial(case=TOKEN, decays=mixed),
    "token_resets": Trial(case=TOKEN, decays=resets),
    "token_rwkv": Trial(case=replace(TOKEN, form="rwkv", reverse=True)),
    "token_exclusive_bf16_decays": Trial(case=replace(TOKEN, form="exclusive"), decays_dtype=torch.bfloat16),
    "token_tiled": Trial(case=replace(TOKEN, D=72, E=72, N=70), slack=2.0),
    "constant": Trial(case=replace(CONSTANT, B=2, H=2)),
    "constant_packed": Trial(case=replace(CONSTANT, **PACKED), layout="heads_first"),
    "constant_bonus": Trial(case=replace(CONSTANT, form="bonus"), layout="every_other"),
    "symmetric": Trial(case=replace(CONSTANT, form="symmetric", H=2)),
    "symmetric_packed_bf16": Trial(case=replace(CONSTANT, form="symmetric", **PACKED), dtype="bf16"),
    "symmetric_reverse_packed": Trial(case=replace(CONSTANT, form="symmetric", reverse=True, **PACKED)),
    "one_token": Trial(case=replace(BASE, N=1)),
    "one_token_token": Trial(case=replace(TOKEN, N=1, form="exclusive")),
    "far_tokens": Trial(case=replace(TOKEN, N=3, initial=False), dtype="fp16", layout="far"),
    "far_heads": Trial(case=replace(TOKEN, N=3, H=3, initial=False), dtype="fp16", layout="far_heads"),
}
# Whole calls: the normaliser's counts and weights come with them.
PUBLIC = {
    "public": Trial(case=replace(BASE, form="rwkv")),
    "max": Trial(case=replace(TOKEN, form="max", B=2), slack=5.0),
    "max_bf16": Trial(case=replace(CONSTANT, form="max"), dtype="bf16", slack=10.0),
    "max_packed_reverse": Trial(case=replace(TOKEN, form="max", reverse=True, **PACKED), slack=5.0),
}


@dataclass
class Made:
    """Tensors of a trial as a call takes them, and the same as leaves in float64; the other options."""

    given: dict[str, Tensor]
    exact: dict[str, Tensor]
    options: dict[str, object]

    @property
    def inputs(self) -> Inputs:
        names = ("q", "k", "v", "log_decay", "log_weight", "bonus", "S")
        return Inputs(*(self.given.get(name) for name in names), self.options.get("cu_seqlens"))

    @property
    def words(self) -> Words:
        o = self.options
        words = (o.get("symmetric_block", 0), o.get("exclusive", False), False)
        return Words(*words, float(o["scale"]), o["reverse"], 64)

    def wanted(self) -> tuple[Tensor, Tensor]:
        o, x = self.options, self.exact
        words = (o.get("symmetric_block"), x.get("bonus"), o.get("exclusive", False), None, None)
        more = (o["scale"], o["reverse"], x.get("S"), o.get("cu_seqlens"))
        return decay_scan_reference(x["q"], x["k"], x["v"], x["log_decay"], *words, *more)


def make(name: str, trial: Trial) -> Made:
    torch.manual_seed(len(name))
    case = trial.sized
    x, options = case.inputs(), case.options()
    x["log_decay"] = trial.decays(x["log_decay"]).to(trial.decays_dtype)
    given = {n: inside_nan(t, trial.layout if n in "qkv" else "odd") for n, t in x.items()}
    if "cu_seqlens" in options:
        options["cu_seqlens"] = options["cu_seqlens"].to(DEVICE)
    return Made(given, {n: t.double().requires_grad_() for n, t in given.items()}, options)


def compare(trial: Trial, what: str, got: Tensor, want: Tensor) -> tuple[str, float]:
    want = want.detach().to(got.dtype).double()  # rounded as the result is: float16 has few digits near zero
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    missing = int((~got.isfinite()).sum())
    assert not missing, f"{what}: not finite in {missing} of {got.numel()} cells"
    error = float((got.detach().double() - want).norm() / want.norm().clamp(min=1e-30))
    allowed = TOLERANCE[DTYPES[trial.dtype]] * trial.slack
    if got.dtype == torch.bfloat16:
        allowed = max(allowed, TOLERANCE[torch.bfloat16])
    assert error <= allowed, f"{what}: relative error {error:.2e}"
    return what, error


def forward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    o, S = triton_launch.scan_forward(x.inputs, x.words)
    assert o.dtype == x.given["q"].dtype and o.is_contiguous() and S.is_contiguous()
    want, want_S = x.wanted()
    return [compare(trial, "o", o, want), compare(trial, "S", S, want_S)]


def backward(trial: Trial, x: Made) -> list[tuple[str, float]]:
    o, S = x.wanted()
    do = torch.randn(o.shape).to(DEVICE, x.given["q"].dtype)
    dS = torch.randn(S.shape).to(DEVICE)
    loss = (o * do.double()).sum() + (S * dS.double()).sum()
    wanted = dict(zip(x.exact, torch.autograd.grad(loss, list(x.exact.values())), strict=True))
    names = ("q", "k", "v", "log_decay", "log_weight", "bonus", "S")
    got = dict(zip(names, triton_launch.scan_backward(do, dS, x.inputs, x.words), strict=True))
    assert {name for name, g in got.items() if g is not None} == set(x.given)
    assert all(got[name].dtype == t.dtype and got[name].is_contiguous() for name, t in x.given.items())
    return [compare(trial, f"d{name}", got[name], wanted[name]) for name in x.given]


def public(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """decay_scan(backend="triton") with every gradient, through the registered ops."""
    own = {name: t.detach().clone().requires_grad_() for name, t in x.given.items()}
    got = run(own, **x.options, backend="triton")
    wanted = run(x.exact, **x.options, backend="reference")
    found = [compare(trial, name, t, wanted[name]) for name, t in got.items()]
    wanted_grads = gradients(wanted, x.exact)
    return found + [compare(trial, f"d{n}", g, wanted_grads[n]) for n, g in gradients(got, own).items()]


def registration(trial: Trial, x: Made) -> list[tuple[str, float]]:
    """Shapes, dtypes and strides that the ops promise to compilers are those that the launchers return."""
    args = (*x.inputs, *x.words[:-1], "triton")  # the last word is the backward's own, True if not given
    o, S = triton_launch.scan_forward(x.inputs, x.words)
    calls = {"decay_scan": args, "decay_scan_bwd": (o, S, *args)}
    for name, given in calls.items():
        torch.library.opcheck(getattr(torch.ops.linzoo, name).default, given, test_utils="test_faketensor")
    return [(name, 0.0) for name in calls]


GROUPS = {f.__name__: f for f in (forward, backward, public, registration)}
REGISTERED = ("rwkv", "constant_packed", "token_bf16")


def passes(group: str, name: str) -> bool:
    trial = (TRIALS | PUBLIC)[name]
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
    default = {"public": tuple(PUBLIC), "registration": REGISTERED}.get(sys.argv[1], tuple(TRIALS))
    passed = [passes(sys.argv[1], name) for name in sys.argv[2:] or default]
    print(f"{sum(passed)} of {len(passed)} passed", flush=True)
    sys.exit(not all(passed))
