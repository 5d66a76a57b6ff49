"""Softmax attention within a window of a 2-D grid, with global tokens. Equations in README.md."""

from torch import Tensor

from .. import checks
from ..autocast import as_autocast, exactly
from ..dispatch import Backend
from ..transforms import choose_with_backward
from ..triton_available import why_not
from .arguments import OP, check_extra, check_geometry, check_scale, check_tokens
from .merge import merge_attn
from .ops import local_attn_op
from .reference import local_attn_reference

__all__ = ["local_attn", "merge_attn"]

WIDEST = 256  # key or value columns of the Triton kernels: more does not fit their shared memory


def _why_no_triton(x: Tensor) -> str | None:
    reason = why_not(x)
    if reason is None and x.shape[-1] > WIDEST:
        return f"takes D and E up to {WIDEST}, got {x.shape[-1]}"
    return reason


BACKENDS = (
    Backend("triton", _why_no_triton, by_name_only=lambda x: not x.is_cuda),  # off the GPU: the interpreter
    Backend("eager", lambda x: None, by_name_only=lambda x: False),
    Backend("reference", lambda x: None, by_name_only=lambda x: True),
)


def local_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: tuple[int, int],
    radius: float | None = None,
    window: int | tuple[int, int] | None = None,
    n_global: int = 0,
    global_first: bool = True,
    extra_kv: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    q_rows: tuple[int, int] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Every image token attends to the image tokens in a window around it, and to all global tokens: O(N).

        y_i = sum_j exp(s_ij - lse_i) v_j      lse_i = log sum_j exp(s_ij)      s_ij = scale q_i . k_j

    over the keys j that query i sees. Windows are clipped at the grid's edges, neither shifted nor wrapped.

    Args:
        q: (B, Nq, H, D), any strides (unit stride on D is read without a copy). Tokens are n_global global
            ones (text) and the image, row by row.
        k, v: (B, Nk, H, D), (B, Nk, H, E), same dtype: float64, float32, bfloat16 or float16; Nk = n_global +
            height width. Under autocast q, k, v and extra_kv are cast.
        grid: (height, width) of the image tokens of k, in tokens.
        radius: > 0, in tokens: image queries see image keys with dy^2 + dx^2 < radius^2, strictly.
        window: odd side, or (height, width) both odd, in tokens: |dy| <= height // 2, |dx| <= width // 2.
            Exactly one of radius and window.
        n_global: global tokens: they see every token of k and are seen by every query.
        global_first: the global tokens come before the image (True) or after it (False), in q, k and v.
        extra_kv: keys (B, P, H, D) and values (B, P, H, E) that every image query sees and no global query.
        scale: of the scores; None: D^-1/2.
        q_rows: (first, last): the image queries are rows first .. last - 1 of the grid (the other rows are a
            halo of keys). Then Nq = n_global + (last - first) width; q, and k with v, may also come without
            their global tokens.
        backend: "auto", "triton" (CUDA), "eager", "reference" (the definition with its N x N mask, float64).
    Returns: y (B, Nq, H, E) in q's dtype, lse (B, Nq, H) natural log, in float32 (float64 for float64).
        Results over disjoint keys merge by ``merge_attn``.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run, and under torch.func and forward-mode derivatives (only "reference" takes them).
    Once differentiable, in q, k, v and extra_kv, from y and from lse. Sources: README.md.
    """
    for name, x, layout in (("q", q, "(B, N, H, D)"), ("k", k, "(B, N, H, D)"), ("v", v, "(B, N, H, E)")):
        checks.check_tokens(OP, name, x, layout)
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    check_tokens(q, k, v)
    extra_k, extra_v = (None if x is None else as_autocast(x) for x in check_extra(extra_kv, q, v))
    for name, x in (("extra_kv keys", extra_k), ("extra_kv values", extra_v)):
        if x is not None:
            checks.check_like(OP, name, x, "q", q)
    geometry = check_geometry(q, k, grid, radius, window, n_global, global_first, q_rows)
    scale = check_scale(scale, q.shape[-1])
    chosen = choose_with_backward(OP, BACKENDS, backend, q if q.shape[-1] >= v.shape[-1] else v)
    if chosen == "reference":
        with exactly(q):
            return local_attn_reference(q, k, v, extra_k, extra_v, geometry, scale)
    tensors = (_unit_stride(x) for x in (q, k, v, extra_k, extra_v))
    return local_attn_op(*tensors, list(geometry), scale, chosen)


def _unit_stride(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()
