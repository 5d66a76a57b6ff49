"""Runs one kernel over the cases and prints one line a case; exit code 1 on an error.

TRITON_INTERPRET=1 python child.py reduce_forward [case ...]

Without TRITON_INTERPRET the same cases run compiled, on the machine's GPU.
"""

import sys
import traceback

import torch
from cases import BY_NAME, CASES, DTYPES, Case, Inputs, make
from device import DEVICE, FLOAT32
from oracle import attention, readout, states
from torch import Tensor

from linzoo.kernels import linear_attn
from linzoo.kernels.linear_attn import triton_launch, triton_parts, triton_tiles

# Relative l2 error against float64 of the same (rounded) inputs.
TOLERANCE = {"fp32": FLOAT32, "fp16": 2e-3, "bf16": 2e-2}
GUARD = 128
_new_empty = torch.Tensor.new_empty
_guarded: list[tuple[Tensor, int]] = []


def guarded_empty(self, size, *more, dtype=None, **_):
    """In place of Tensor.new_empty: NaN inside and around, so that unwritten and overrun cells show."""
    size = (size, *more) if isinstance(size, int) else size
    if not (dtype or self.dtype).is_floating_point:
        return _new_empty(self, size, dtype=dtype)
    numel = int(torch.Size(size).numel())
    flat = torch.full((numel + 2 * GUARD,), float("nan"), dtype=dtype or self.dtype, device=self.device)
    _guarded.append((flat, numel))
    return flat[GUARD : GUARD + numel].view(*size)


def check_guards() -> None:
    for flat, numel in _guarded:
        assert flat[:GUARD].isnan().all() and flat[GUARD + numel :].isnan().all(), "wrote outside its output"
    _guarded.clear()


def wide(x):
    """float64 leaf with gradient of a float tensor; tuples of them; None stays."""
    if isinstance(x, tuple):
        return tuple(t.double() for t in x)
    return None if x is None else x.double().nan_to_num(0.0).requires_grad_()


def compare(case: Case, what: str, got: Tensor | None, want: Tensor | None) -> tuple[str, float]:
    if want is None or got is None:
        assert (want is None) == (got is None), f"{what}: got {got}, want {want}"
        return what, 0.0
    want = want.detach().to(got.dtype).double()  # rounded as the result is: float16 has few digits near zero
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    assert got.isfinite().all(), (
        f"{what}: not finite in {int((~got.isfinite()).sum())} of {got.numel()} cells"
    )
    error = float((got.double() - want).norm() / want.norm().clamp(min=1e-30))
    assert error <= TOLERANCE[case.dtype] * (5 if case.norm == "mag" else 1), (
        f"{what}: relative error {error:.2e}"
    )
    return what, error


def reduce_forward(case: Case, x: Inputs):
    got = triton_launch.reduce_forward(
        x.k, x.v, x.weight, x.mask, *x.cos_sin, x.cu, case.feature, case.centered
    )
    want = states(case, wide(x.k), wide(x.v), wide(x.weight), x.mask, wide(x.rope))
    assert got[3].tolist() == want[3].tolist(), f"n: {got[3].tolist()}, want {want[3].tolist()}"
    assert all(t.dtype == torch.float32 for t in got[:3])
    return [compare(case, name, *pair) for name, *pair in zip("Ssm", got, want, strict=False)]


def reduce_backward(case: Case, x: Inputs):
    leaves = [wide(t) for t in (x.k, x.v, x.weight)]
    S, s, m, n = states(case, *leaves, x.mask, wide(x.rope))
    used = [t for t in leaves if t is not None]
    loss = (S * x.dS).sum() + (s * x.ds).sum() + (m * x.dm).sum()
    grads = dict(zip([id(t) for t in used], torch.autograd.grad(loss, used), strict=True))
    state = (s.detach().float(), m.detach().float(), n)
    got = triton_launch.reduce_backward(
        x.dS, x.ds, x.dm, x.k, x.v, x.weight, x.mask, *x.cos_sin, x.cu, *state, case.feature, case.centered
    )
    assert got[0].dtype == x.k.dtype and got[0].is_contiguous() and got[1].is_contiguous()
    names = ("dk", "dv", "dweight")
    return [compare(case, a, g, grads.get(id(t))) for a, g, t in zip(names, got, leaves, strict=True)]


def _state(case: Case, x: Inputs):
    state = states(case, wide(x.k), wide(x.v), wide(x.weight), x.mask, wide(x.rope))
    return [t.detach().float() for t in state[:3]], state[3]


def _read_options(case: Case):
    return case.feature, case.norm, case.eps, case.eps_on, case.scale(case.D), case.cmin, case.centered


def readout_forward(case: Case, x: Inputs):
    state, n = _state(case, x)
    where = (x.tau, *x.cos_sin, x.cu, case.state_index)
    got = triton_launch.readout_forward(x.q, *state, n, *where, *_read_options(case))
    assert got.dtype == x.q.dtype and got.is_contiguous()
    want = readout(case, wide(x.q), *(wide(t) for t in state), n, wide(x.tau), wide(x.rope))
    empty = n[readers_of(case, x)] == 0
    assert not got[empty].any(), "an empty state must read as zero"
    return [compare(case, "y", got, want)]


def readers_of(case: Case, x: Inputs) -> Tensor:
    from oracle import readers

    return readers(case, *x.q.shape[:2])


def readout_backward(case: Case, x: Inputs):
    state, n = _state(case, x)
    leaves = [wide(x.q), *(wide(t) for t in state), wide(x.tau)]
    y = readout(case, *leaves[:4], n, leaves[4], wide(x.rope))
    grads = torch.autograd.grad(
        y, leaves[: 5 if x.tau is not None else 4], x.dy.double(), materialize_grads=True
    )
    where = (x.tau, *x.cos_sin, x.cu, case.state_index)
    got = triton_launch.readout_backward(x.dy, x.q, *state, n, *where, *_read_options(case))
    names = ("dq", "dS", "ds", "dm", "dtau")
    wants = [*grads, None][:5]
    return [compare(case, *triple) for triple in zip(names, got, wants, strict=True)]


def public(case: Case, x: Inputs):
    """linear_attn(backend="triton") forward and every gradient, against the N x N matrix."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x.q, x.k, x.v, x.weight, x.tau)]
    q, k, v, weight, tau = leaves
    y = linear_attn(
        q, k, v, feature=case.feature, norm=case.norm, eps=case.eps, eps_on=case.eps_on, scale=tau,
        cmin=case.cmin, rope=x.rope, weight=weight, mask=x.mask, cu_seqlens=x.cu, backend="triton",
    )  # fmt: skip
    wides = [wide(t) for t in leaves]
    want = attention(case, *wides[:4], x.mask, wide(x.rope), wides[4])
    got_grads = torch.autograd.grad(y, [t for t in leaves if t is not None], x.dy)
    want_grads = torch.autograd.grad(
        want, [t for t in wides if t is not None], x.dy.double(), materialize_grads=True
    )
    names = [f"d{a}" for a, t in zip(("q", "k", "v", "weight", "tau"), leaves, strict=True) if t is not None]
    pairs = zip(names, got_grads, want_grads, strict=True)
    return [compare(case, "y", y.detach(), want), *(compare(case, *p) for p in pairs)]


def registration(case: Case, x: Inputs):
    """Shapes, dtypes and strides that the ops promise to compilers are those that the launchers return."""
    state, n = _state(case, x)
    reduced = (x.k, x.v, x.weight, x.mask, *x.cos_sin, x.cu)
    given = (x.q, *state, n, x.tau, *x.cos_sin, x.cu, case.state_index)
    options = (*_read_options(case)[:5], case.cmin or 0.0, case.centered, "triton")
    kind = (case.feature, case.centered, "triton")
    calls = {
        "lin_reduce": (*reduced, *kind),
        "lin_reduce_bwd": (x.dS, x.ds, x.dm, *reduced, state[1], state[2], n, *kind),
        "lin_readout": (*given, *options),
        "lin_readout_bwd": (x.dy, *given, *options),
    }
    for name, args in calls.items():
        torch.library.opcheck(getattr(torch.ops.linzoo, name).default, args, test_utils="test_faketensor")
    return [(name, 0.0) for name in calls]


REGISTERED = ("rala", "l2vit_fp16", "mala_masked", "inline_split", "scatterformer")
GROUPS = {
    f.__name__: f
    for f in (reduce_forward, reduce_backward, readout_forward, readout_backward, public, registration)
}


def run(group: str, case: Case) -> bool:
    if case.splits is not None:
        triton_launch.split_count = lambda *_: case.splits
    else:
        triton_launch.split_count = triton_tiles.split_count
    try:
        with torch.no_grad() if group != "public" else torch.enable_grad():
            inputs = make(case)
        if group != "registration":  # which compares storage offsets too
            torch.Tensor.new_empty = guarded_empty
        with torch.enable_grad():
            results = GROUPS[group](case, inputs)
        check_guards()
    except Exception as error:
        traceback.print_exc()
        print(f"FAIL {group} {case.name}: {type(error).__name__}: {error}", flush=True)
        return False
    finally:
        torch.Tensor.new_empty = _new_empty
        _guarded.clear()
    print(
        f"ok {group} {case.name}: " + ", ".join(f"{name} {error:.1e}" for name, error in results), flush=True
    )
    return True


if __name__ == "__main__":
    assert triton_parts.INTERPRETED.value == (DEVICE == "cpu")
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False  # results are compared with full float32 products
    chosen = CASES if sys.argv[2:] in ([], ["sample"]) else [BY_NAME[name] for name in sys.argv[2:]]
    if sys.argv[1] == "public":
        chosen = [case for case in chosen if case.state_index is None]
    elif sys.argv[1] == "registration":
        chosen = [case for case in chosen if case.name in REGISTERED]
    thinned = 6 if sys.argv[1] == "public" else 3  # which makes the same launches as the other groups
    chosen = chosen[:: thinned if sys.argv[2:] == ["sample"] else 1]
    passed = [run(sys.argv[1], case) for case in chosen]
    print(f"{sum(passed)} of {len(passed)} passed, {len(DTYPES)} dtypes", flush=True)
    sys.exit(not all(passed))
