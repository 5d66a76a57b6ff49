"""Global, non-causal linear attention: reduce tokens to a state, read it out. Equations in README.md."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import as_autocast, exactly
from ..checks import Rope
from ..dispatch import BACKENDS, choose
from ..errors import BackendError
from ..transforms import derivatives_are_transformed
from .arguments import check_readout, check_reduce, check_state
from .features import feature_map
from .ops import lin_readout_op, lin_reduce_op
from .plain import lin_readout_plain, lin_reduce_plain
from .reference import lin_readout_reference, lin_reduce_reference
from .state import LinState

__all__ = ["LinState", "feature_map", "lin_readout", "lin_reduce", "linear_attn"]


def linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature: str = "identity",
    norm: str = "sum",
    eps: float = 1e-6,
    eps_on: str = "mean",
    scale: float | Tensor | None = None,
    cmin: float | None = None,
    rope: Rope | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Every query reads all keys of its row (or segment), at O(N): ``lin_readout(q, lin_reduce(k, v))``.

        y_i = alpha(z_i) u_i + beta(z_i) m      z_i = phi(q_i) . s      u_i = S^T R_i phi(q_i)
        S = sum_j w_j R_j phi(k_j) v_j^T        s = sum_j w_j phi(k_j)      m = sum_j v_j

    Args:
        q, k: (B, N, H, D), any strides (unit stride on D is read without a copy); N >= 1.
        v: (B, N, H, E), same dtype: float64, float32, bfloat16 or float16; under autocast all three are cast.
        feature: phi: "identity", "elu1" (elu(x) + 1) or "relu".
        norm: "sum": u / (z + eps). "clamp": scale u / max(z, cmin). "mag", with tau = scale / n:
            tau u (1 + 1 / (tau z + eps)) - tau z m / n. "sub": tau u + (1 - tau z) m / n.
            No other clamp is added: "sum" with signed features, "mag" and "sub" can meet z near 0.
        eps: >= 0; added to z for "sum", to tau z for "mag".
        eps_on: "mean": eps belongs to the mean of the keys (eps n is added to z); "sum": eps itself is added,
            with norm "sum" only.
        scale: "clamp": tensor (H,), differentiable. "mag", "sub": number, default D^-1/2. "sum": None.
        cmin: > 0, needed by "clamp", only there.
        rope: (cos, sin), each (N, D), float32 (float64 for float64 input), constants. R turns the pairs
            (2j, 2j + 1) of phi(q) and phi(k) in u and S, never in z and s. With cu_seqlens the tables' rows
            belong to packed tokens.
        weight: (B, N, H), differentiable; scales phi(k) only. Refused with "mag" and "sub".
        mask: (B, N) bool; tokens with False count in none of S, s, m, n. Every token still reads.
        cu_seqlens: (G + 1,) int32, first 0, last N, needs B = 1: segments attend within themselves. Values
            are checked on the CPU only.
        backend: "auto", "triton" (CUDA), "eager", "reference" (slow: the definition,
            in float64).
    Returns: (B, N, H, E) in q's dtype; sums in float32 (float64 for float64). 0 where there is no key.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run.
    Once differentiable, in q, k, v, weight and scale. Under torch.func.grad, vjp, jvp and forward-mode
    derivatives "auto" runs the formula in plain torch (not with cu_seqlens). Sources: README.md.
    """
    op = "linear_attn"
    for name, x, layout in (("q", q, "(B, N, H, D)"), ("k", k, "(B, N, H, D)"), ("v", v, "(B, N, H, E)")):
        checks.check_tokens(op, name, x, layout)
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    checks.check_keys_values(op, k, v)
    checks.check_queries(op, q, k)
    check_reduce(op, k, v, feature, norm, rope, weight, mask, cu_seqlens)
    scale = check_readout(op, q, feature, norm, eps, eps_on, scale, cmin)
    chosen = _choose(op, backend, q, cu_seqlens)
    if chosen == "reference":  # so that the state between the two is not rounded either
        k, v = k.double(), v.double()
    state = _reduce(k, v, feature, norm, rope, weight, mask, cu_seqlens, chosen)
    return _readout(q, state, feature, norm, eps, eps_on, scale, cmin, rope, cu_seqlens, None, chosen)


def lin_reduce(
    k: Tensor,
    v: Tensor,
    *,
    feature: str = "identity",
    norm: str = "sum",
    rope: Rope | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> LinState:
    """The state of the tokens of each row (R = B) or segment (R = G): sums, so states of disjoint tokens add.

    Arguments as in ``linear_attn``. ``norm`` is what the state will be read with: "sub" without rope keeps S
    centred about the means (an offset in k and v would cost digits), anything else keeps plain sums.

    Returns: LinState, contiguous, float32 (float64 for float64 input). Empty segments have zero states.
    Raises: as ``linear_attn``. Once differentiable in k, v and weight.
    """
    op = "lin_reduce"
    checks.check_tokens(op, "k", k, "(B, N, H, D)")
    checks.check_tokens(op, "v", v, "(B, N, H, E)")
    k, v = as_autocast(k), as_autocast(v)
    checks.check_keys_values(op, k, v)
    check_reduce(op, k, v, feature, norm, rope, weight, mask, cu_seqlens)
    chosen = _choose(op, backend, k, cu_seqlens)
    return _reduce(k, v, feature, norm, rope, weight, mask, cu_seqlens, chosen)


def lin_readout(
    q: Tensor,
    state: LinState,
    *,
    feature: str = "identity",
    norm: str = "sum",
    eps: float = 1e-6,
    eps_on: str = "mean",
    scale: float | Tensor | None = None,
    cmin: float | None = None,
    rope: Rope | None = None,
    cu_seqlens: Tensor | None = None,
    state_index: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Each query reads a state: its row's, its segment's, or the one ``state_index`` names.

    Args (others as in ``linear_attn``):
        q: (B, N, H, D); N is free of the number of tokens in the state.
        state: R = B rows; R = G with cu_seqlens; any R with state_index.
        state_index: (N,) int32 in 0 .. R - 1, needs B = 1. Values are checked on the CPU only.
    Returns: (B, N, H, E) in q's dtype; 0 where the state is empty (n = 0).
    Raises: as ``linear_attn``. Once differentiable in q, S, s, m and scale.
    """
    op = "lin_readout"
    checks.check_tokens(op, "q", q, "(B, N, H, D)")
    q = as_autocast(q)
    check_state(op, q, state, norm, rope, cu_seqlens, state_index)
    checks.check_rope(op, rope, "q", q)
    checks.check_cu_seqlens(op, cu_seqlens, "q", q)
    checks.check_state_index(op, state_index, cu_seqlens, q, state.S.shape[0])
    scale = check_readout(op, q, feature, norm, eps, eps_on, scale, cmin)
    chosen = _choose(op, backend, q, cu_seqlens, state_index)
    return _readout(q, state, feature, norm, eps, eps_on, scale, cmin, rope, cu_seqlens, state_index, chosen)


def _choose(op: str, backend: str, x: Tensor, *packed: Tensor | None) -> str:
    """The backend, or "plain" where torch must see the formula itself.

    That is for ONNX (knows no custom op), torch.compile on a CPU (inductor fuses), torch.func and
    forward-mode derivatives. torch.export keeps the op, a backend asked for by name keeps it, and packed rows
    need it (how they are tiled depends on data).
    """
    chosen = choose(op, BACKENDS, backend, x)
    if chosen == "reference":
        return chosen
    fixed = backend != "auto" or any(p is not None for p in packed)
    if derivatives_are_transformed():
        if fixed:
            rows = " with packed rows" if backend == "auto" else ""
            raise BackendError(
                f"{op}: backend must be 'reference', or 'auto' without cu_seqlens and state_index, under "
                f"torch.func.grad, vjp, jvp and forward-mode derivatives, got {backend!r}{rows}"
            )
        return "plain"
    if fixed or not torch.compiler.is_compiling():
        return chosen
    plainly = torch.onnx.is_in_onnx_export() if torch.compiler.is_exporting() else x.device.type == "cpu"
    return "plain" if plainly else chosen


def _reduce(
    k: Tensor,
    v: Tensor,
    feature: str,
    norm: str,
    rope: Rope | None,
    weight: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    chosen: str,
) -> LinState:
    centered = norm == "sub" and rope is None
    if chosen == "reference":
        with exactly(k):
            return lin_reduce_reference(k, v, weight, mask, rope, cu_seqlens, feature, centered)
    if chosen == "plain":
        with exactly(k):
            return lin_reduce_plain(k, v, weight, mask, rope, feature, centered)
    cos, sin = rope or (None, None)
    k, v = _unit_stride(k), _unit_stride(v)
    S, s, m, n = lin_reduce_op(k, v, weight, mask, cos, sin, cu_seqlens, feature, centered, chosen)
    return LinState(S, s, m, n, centered)


def _readout(
    q: Tensor,
    state: LinState,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    chosen: str,
) -> Tensor:
    if chosen == "reference":
        with exactly(q):
            return lin_readout_reference(
                q, state, rope, cu_seqlens, state_index, feature, norm, eps, eps_on, scale, cmin
            )
    if chosen == "plain":
        with exactly(q):
            return lin_readout_plain(q, state, rope, feature, norm, eps, eps_on, scale, cmin)
    cos, sin = rope or (None, None)
    tau, factor = (scale, 0.0) if norm == "clamp" else (None, scale or 0.0)
    packed = (cu_seqlens, state_index)
    words = (feature, norm, float(eps), eps_on, factor, float(cmin or 0.0), state.centered, chosen)
    return lin_readout_op(_unit_stride(q), state.S, state.s, state.m, state.n, tau, cos, sin, *packed, *words)


def _unit_stride(x: Tensor) -> Tensor:
    """``x`` itself when D is contiguous, as in views of a fused projection; else a contiguous copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
