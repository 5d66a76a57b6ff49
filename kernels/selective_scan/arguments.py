"""What ``selective_scan`` accepts, put together from the single checks."""

from torch import Tensor

from .. import checks

OP = "selective_scan"


def check_tensors(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
    """Ranks and floating dtypes, before anything is cast."""
    given = {"u": (u, "(B, N, C)", 3), "delta": (delta, "(B, N, C)", 3), "A": (A, "(C, S)", 2)}
    given |= {"B": (B, "(B, N, S)", 3), "C": (C, "(B, N, S)", 3)}
    given |= {} if D is None else {"D": (D, "(C,)", 1)}
    for name, (x, layout, rank) in given.items():
        checks.check_tensor(OP, name, x, layout, rank)
        checks.check_floating(OP, name, x)


def check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
    """Sizes and devices against u; u, B and C have one dtype, the others their own."""
    rows, tokens, channels = u.shape
    size = A.shape[1]
    checks.check_shape(OP, "delta", delta, "(B, N, C)", (rows, tokens, channels))
    checks.check_shape(OP, "A", A, "(C, S)", (channels, size))
    checks.check_shape(OP, "B", B, "(B, N, S)", (rows, tokens, size))
    checks.check_shape(OP, "C", C, "(B, N, S)", (rows, tokens, size))
    own = {"delta": delta, "A": A}
    if D is not None:
        checks.check_shape(OP, "D", D, "(C,)", (channels,))
        own["D"] = D
    for name, x in own.items():
        checks.check_like(OP, name, x, "u", u, x.dtype)
    for name, x in (("B", B), ("C", C)):
        checks.check_like(OP, name, x, "u", u)


def check_options(
    u: Tensor, size: int, initial: Tensor | None, reverse: bool, cu_seqlens: Tensor | None
) -> None:
    if not isinstance(reverse, bool):
        raise TypeError(f"{OP}: reverse must be True or False, got {type(reverse).__name__}")
    checks.check_cu_seqlens(OP, cu_seqlens, "u", u)
    if initial is None:
        return
    states, where = (u.shape[0], "B") if cu_seqlens is None else (cu_seqlens.shape[0] - 1, "G")
    checks.check_shape(OP, "initial", initial, f"({where}, C, S)", (states, u.shape[2], size))
    checks.check_like(OP, "initial", initial, "u", u, checks.accumulation_dtype(u.dtype))
