"""Linear attention whose keys pass a softmax over the tokens, channel by channel. Equations in README.md."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import exactly
from ..dispatch import BACKENDS, choose
from ..linear_attn import lin_reduce
from .positions import FORMS, Tables, encoded, query_features, rotated, spread
from .reference import key_softmax_attn_reference
from .state import KeySoftmaxState, check_parts, finite

__all__ = [
    "KeySoftmaxState",
    "Tables",
    "encoded",
    "key_softmax_attn",
    "key_softmax_readout",
    "key_softmax_reduce",
    "rotated",
    "spread",
]


def key_softmax_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rope: Tables | None = None,
    form: str = "rotate",
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Every query reads all tokens of its row, at O(N), with keys that sum to 1 over the tokens.

        kbar = softmax of k over the N tokens, each channel alone
        y_i = M^T P_i(q_i)         M = sum_j P_j(kbar_j) v_j^T

    Args:
        q, k: (B, N, H, D). q is read as it is (LightNet applies SiLU before).
        v: (B, N, H, E), same dtype: float64, float32, bfloat16 or float16.
        rope: (cos, sin), each (N, H, D), or (N, 1, D) for all heads; float32 (float64 for float64 input),
            differentiable. P acts behind the softmax; None: P is the identity.
        form: "rotate" turns the pairs (2j, 2j + 1), an odd last channel by its cosine; "cosine" doubles the
            width, (x cos, x sin).
        mask: (B, N) bool; tokens with False are no keys (-inf before the softmax). Every token still reads.
        backend: "auto", "eager", "triton" for the sum M (see ``lin_reduce``), or "reference" (slow: the
            definition, in float64).
    Returns: (B, N, H, E) in q's dtype; softmax and sums in float32 (float64 for float64), under autocast
        too. 0 where there is no key.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run.
    Source: LightNet, arXiv 2405.21022.
    """
    op = "key_softmax_attn"
    for name, x, layout in (("q", q, "(B, N, H, D)"), ("k", k, "(B, N, H, D)"), ("v", v, "(B, N, H, E)")):
        checks.check_tokens(op, name, x, layout)
    checks.check_queries(op, q, k)
    checks.check_keys_values(op, k, v)
    _check_words(op, k, rope, form, mask, backend)
    with exactly(q):
        if backend == "reference":
            return key_softmax_attn_reference(q, k, v, rope, form, mask)
        acc = checks.accumulation_dtype(k.dtype)
        k = k.to(acc)
        if mask is not None:  # finite: a row without keys is no NaN, and the sum below leaves it out
            k = k.masked_fill(~mask[..., None, None], torch.finfo(acc).min)
        kbar = k.softmax(1)
        M = lin_reduce(encoded(kbar, rope, form), v.to(acc), mask=mask, backend=backend).S
        return _read(encoded(q.to(acc), rope, form), M).to(q.dtype)


def key_softmax_reduce(
    k: Tensor,
    v: Tensor,
    *,
    rope: Tables | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> KeySoftmaxState:
    """The state of the tokens of each row (R = B); states of disjoint tokens add, in any order.

    Arguments as in ``key_softmax_attn``; rope holds the tables of these tokens. With tables the state keeps
    2 D x E numbers a head, since a later maximum rescales channels that a rotation would have mixed; one
    state serves both forms.
    Returns: KeySoftmaxState, float32 (float64 for float64 input).
    Raises: as ``key_softmax_attn``; ValueError for backend "reference", which defines outputs only.
    """
    op = "key_softmax_reduce"
    checks.check_tokens(op, "k", k, "(B, N, H, D)")
    checks.check_tokens(op, "v", v, "(B, N, H, E)")
    checks.check_keys_values(op, k, v)
    _check_words(op, k, rope, "rotate", mask, backend)
    if backend == "reference":
        raise ValueError(f"{op}: backend must be 'auto', 'eager' or 'triton', got 'reference'")
    with exactly(k):
        p, m = _exponentials(k, mask)
        f = encoded(p, rope, "cosine")
        S = lin_reduce(f, v.to(p.dtype), mask=mask, backend=backend).S
        return KeySoftmaxState(S, p.sum(1), m)


def key_softmax_readout(
    q: Tensor, state: KeySoftmaxState, *, rope: Tables | None = None, form: str = "rotate"
) -> Tensor:
    """Each query reads its row's state.

    Args (others as in ``key_softmax_attn``):
        q: (B, N, H, D); N is free of the number of tokens in the state.
        state: R = B rows, made with tables exactly when rope is given.
        rope: the tables of the queries' tokens.
    Returns: (B, N, H, E) in q's dtype; 0 where the state is empty.
    Raises: as ``key_softmax_attn``.
    """
    op = "key_softmax_readout"
    checks.check_tokens(op, "q", q, "(B, N, H, D)")
    if not isinstance(state, KeySoftmaxState):
        raise TypeError(f"{op}: state must be a KeySoftmaxState, got {type(state).__name__}")
    check_parts(op, "state.", state)
    checks.check_like(op, "state.S", state.S, "q", q, checks.accumulation_dtype(q.dtype))
    rows_and_heads = (q.shape[0], q.shape[2], q.shape[3])
    checks.check_shape(op, "state.s", state.s, "q's (B, H, D)", rows_and_heads)
    _check_words(op, q, rope, form, None, "auto")
    if (rope is not None) != (state.S.shape[2] == 2 * q.shape[3]):
        made = "without" if rope is not None else "with"
        raise ValueError(
            f"{op}: rope must be given exactly when the state was made with tables, got "
            f"{'tables' if rope is not None else 'None'} for a state made {made} them"
        )
    with exactly(q):
        features = query_features(q.to(state.S.dtype), rope, form)
        return _read(features, state.values()).to(q.dtype)


def _exponentials(k: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """exp(k - m), 0 for masked tokens, and the maximum m (B, H, D), a constant; see KeySoftmaxState."""
    k = k.to(checks.accumulation_dtype(k.dtype))
    if mask is not None:
        k = k.masked_fill(~mask[..., None, None], -torch.inf)
    m = k.detach().amax(1)
    return (k - finite(m).unsqueeze(1)).exp(), m


def _read(q: Tensor, M: Tensor) -> Tensor:
    """(B, N, H, F) by (B, H, F, E) -> (B, N, H, E)."""
    return (q.transpose(1, 2) @ M).transpose(1, 2)


def _check_words(
    op: str, x: Tensor, rope: Tables | None, form: str, mask: Tensor | None, backend: str
) -> None:
    checks.check_word(op, "form", form, FORMS)
    checks.check_weight_and_mask(op, x, None, mask, "sum")
    choose(op, BACKENDS, backend, x)
    if rope is None:
        return
    if not isinstance(rope, (tuple, list)) or len(rope) != 2:
        raise TypeError(f"{op}: rope must be None or a pair of tensors (cos, sin), got {type(rope).__name__}")
    _, tokens, heads, width = x.shape
    for part, table in zip(("rope cos", "rope sin"), rope, strict=True):
        checks.check_tensor(op, part, table, "(N, H or 1, D)", 3)
        own = heads if table.shape[1] == heads else 1
        checks.check_shape(op, part, table, "(N, H or 1, D)", (tokens, own, width))
        checks.check_like(op, part, table, "the tokens", x, checks.accumulation_dtype(x.dtype))
