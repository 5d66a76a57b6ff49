"""What each of the three functions accepts, put together from the single checks."""

from torch import Tensor

from .. import checks
from ..checks import Rope
from ..errors import ShapeError
from .features import FEATURES
from .norms import NORMS
from .state import LinState, check_parts


def check_reduce(
    op: str,
    k: Tensor,
    v: Tensor,
    feature: str,
    norm: str,
    rope: Rope | None,
    weight: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    checks.check_word(op, "feature", feature, FEATURES)
    checks.check_word(op, "norm", norm, NORMS)
    checks.check_rope(op, rope, "k", k)
    checks.check_weight_and_mask(op, k, weight, mask, norm)
    checks.check_cu_seqlens(op, cu_seqlens, "k", k)


def check_readout(
    op: str,
    q: Tensor,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
) -> float | Tensor | None:
    """The words and numbers of a readout; the resolved scale."""
    checks.check_word(op, "feature", feature, FEATURES)
    checks.check_word(op, "norm", norm, NORMS)
    checks.check_word(op, "eps_on", eps_on, ("mean", "sum"))
    checks.check_number(op, "eps", eps, least=0)
    if eps_on == "sum" and norm != "sum":
        raise ValueError(f"{op}: eps_on must be 'mean' unless norm='sum', got 'sum' with norm={norm!r}")
    if norm == "clamp":
        checks.check_number(op, "cmin", cmin, above=0)
        checks.check_shape(op, "scale", scale, "(H,)", (q.shape[2],))
        checks.check_floating(op, "scale", scale)
        checks.check_like(op, "scale", scale, "q", q, scale.dtype)
        return scale
    if cmin is not None:
        raise ValueError(f"{op}: cmin must be None unless norm='clamp', got {cmin} with norm={norm!r}")
    if norm == "sum":
        if scale is not None:
            raise ValueError(f"{op}: scale must be None with norm='sum', got {scale}")
        return None
    if scale is None:
        return q.shape[-1] ** -0.5
    checks.check_number(op, "scale", scale)
    return float(scale)


def check_state(
    op: str,
    q: Tensor,
    state: LinState,
    norm: str,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
) -> None:
    if not isinstance(state, LinState):
        raise TypeError(f"{op}: state must be a LinState, got {type(state).__name__}")
    checks.check_tensor(op, "state.S", state.S, "(R, H, D, E)", 4)
    states, heads, key_dim, _ = state.S.shape
    checks.check_like(op, "state.S", state.S, "q", q, checks.accumulation_dtype(q.dtype))
    if heads != q.shape[2] or key_dim != q.shape[3]:
        checks.refuse(op, "state.S", f"have q's (H, D) = {tuple(q.shape[2:])}", (heads, key_dim))
    check_parts(op, "state.", state)
    if state_index is None:
        rows, where = (q.shape[0], "B") if cu_seqlens is None else (cu_seqlens.shape[0] - 1, "G")
        if states != rows:
            checks.refuse(op, "state.S", f"have R = {where} = {rows} rows", states)
    if state.centered and (norm != "sub" or rope is not None):
        raise ShapeError(
            f"{op}: a centred state must be read with norm='sub' and rope=None, got norm={norm!r}"
            + (" with rope" if rope is not None else "")
        )
