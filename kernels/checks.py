"""Checks of arguments, each made once, by the public functions. Texts: "op: argument must be X, got Y"."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from .dispatch import nearest
from .errors import ShapeError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Rope = tuple[Tensor, Tensor]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and sums: float64 for float64 input, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def refuse(op: str, name: str, wanted: str, got: object) -> NoReturn:
    raise ShapeError(f"{op}: {name} must {wanted}, got {got}")


def check_word(op: str, name: str, word: object, known: Sequence[str]) -> None:
    if word not in known:
        raise ValueError(f"{op}: {name} must be one of {tuple(known)}, got {word!r}{nearest(word, known)}")


def check_number(
    op: str, name: str, value: object, *, above: float | None = None, least: float | None = None
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a Python number, got {type(value).__name__}")
    if above is not None and not value > above:
        raise ValueError(f"{op}: {name} must be > {above:g}, got {value}")
    if least is not None and not value >= least:
        raise ValueError(f"{op}: {name} must be >= {least:g}, got {value}")


def check_integer(op: str, name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{op}: {name} must be >= {least}, got {value}")


def check_tensor(op: str, name: str, x: object, layout: str, rank: int) -> None:
    """A tensor of that rank with no empty dimension."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor {layout}, got {type(x).__name__}")
    if x.dim() != rank:
        refuse(op, name, f"have {rank} dimensions {layout}", tuple(x.shape))
    if any(size == 0 for size in x.shape):
        refuse(op, name, f"have no dimension of size 0 in {layout}", tuple(x.shape))


def check_tokens(op: str, name: str, x: object, layout: str) -> None:
    check_tensor(op, name, x, layout, 4)
    check_floating(op, name, x)


def check_floating(op: str, name: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        refuse(op, name, "be float64, float32, bfloat16 or float16", x.dtype)


def check_shape(op: str, name: str, x: object, layout: str, shape: tuple[int, ...]) -> None:
    check_tensor(op, name, x, layout, len(shape))
    if any(a != b for a, b in zip(x.shape, shape, strict=True)):
        refuse(op, name, f"be {layout} = {tuple(shape)}", tuple(x.shape))


def check_like(
    op: str, name: str, x: Tensor, first: str, like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """Same device as ``like`` and its dtype (or ``dtype``)."""
    if x.device != like.device:
        refuse(op, name, f"be on {first}'s device {like.device}", x.device)
    wanted = like.dtype if dtype is None else dtype
    if x.dtype != wanted:
        refuse(
            op,
            name,
            f"be {wanted}" + (f", {first}'s dtype" if dtype is None else f" for {first} of {like.dtype}"),
            x.dtype,
        )


def check_keys_values(op: str, k: Tensor, v: Tensor) -> None:
    """Of one set of tokens; both have passed ``check_tokens``."""
    if any(a != b for a, b in zip(k.shape[:3], v.shape[:3], strict=True)):
        refuse(op, "v", f"have k's (B, N, H) = {tuple(k.shape[:3])}", tuple(v.shape[:3]))
    check_like(op, "v", v, "k", k)


def check_queries(op: str, q: Tensor, k: Tensor) -> None:
    if any(a != b for a, b in zip(q.shape, k.shape, strict=True)):
        refuse(op, "k", f"have q's shape (B, N, H, D) = {tuple(q.shape)}", tuple(k.shape))
    check_like(op, "k", k, "q", q)


def check_rope(op: str, rope: object, name: str, x: Tensor) -> None:
    """(cos, sin), each (N, D) in the accumulation dtype, constants."""
    if rope is None:
        return
    if not isinstance(rope, (tuple, list)) or len(rope) != 2:
        raise TypeError(f"{op}: rope must be None or a pair of tensors (cos, sin), got {type(rope).__name__}")
    n, d = x.shape[1], x.shape[3]
    if d % 2:
        refuse(op, "rope", f"be None when {name}'s D is odd", f"tables for D = {d}")
    for part, table in zip(("rope cos", "rope sin"), rope, strict=True):
        check_shape(op, part, table, "(N, D)", (n, d))
        check_like(op, part, table, name, x, accumulation_dtype(x.dtype))
        if table.requires_grad:
            raise ValueError(f"{op}: {part} must be a constant (requires_grad=False), got requires_grad=True")


def check_weight_and_mask(op: str, k: Tensor, weight: Tensor | None, mask: Tensor | None, norm: str) -> None:
    if weight is not None:
        if norm in ("mag", "sub"):
            raise ValueError(
                f"{op}: weight must be None with norm='mag' or 'sub', got a tensor with norm={norm!r}"
            )
        check_shape(op, "weight", weight, "(B, N, H)", tuple(k.shape[:3]))
        check_floating(op, "weight", weight)
        check_like(op, "weight", weight, "k", k, weight.dtype)
    if mask is not None:
        check_shape(op, "mask", mask, "(B, N)", tuple(k.shape[:2]))
        check_like(op, "mask", mask, "k", k, torch.bool)


def check_cu_seqlens(op: str, cu_seqlens: Tensor | None, name: str, x: Tensor) -> None:
    """int32 (G + 1,), 0 first, N last, never falling; values are read on the CPU only (a GPU would wait)."""
    if cu_seqlens is None:
        return
    check_tensor(op, "cu_seqlens", cu_seqlens, "(G + 1,)", 1)
    check_like(op, "cu_seqlens", cu_seqlens, name, x, torch.int32)
    if x.shape[0] != 1:
        refuse(op, name, "have B = 1 with cu_seqlens (segments are packed along N)", f"B = {x.shape[0]}")
    if cu_seqlens.shape[0] < 2:
        refuse(op, "cu_seqlens", "have at least 2 entries (G + 1)", tuple(cu_seqlens.shape))
    if values_are_visible(cu_seqlens):
        check_offsets(op, cu_seqlens, x.shape[1])


def check_offsets(op: str, cu_seqlens: Tensor, tokens: int) -> None:
    """The values: else tokens that no segment covers would be left unwritten."""
    if int(cu_seqlens[0]) != 0:
        refuse(op, "cu_seqlens", "start at 0", int(cu_seqlens[0]))
    if bool((cu_seqlens[1:] < cu_seqlens[:-1]).any()):
        refuse(op, "cu_seqlens", "never fall from one entry to the next", cu_seqlens.tolist()[:8])
    if int(cu_seqlens[-1]) != tokens:
        refuse(op, "cu_seqlens", f"end at N = {tokens}", int(cu_seqlens[-1]))


def check_state_index(
    op: str, state_index: Tensor | None, cu_seqlens: Tensor | None, q: Tensor, states: int
) -> None:
    if state_index is None:
        return
    if cu_seqlens is not None:
        raise ValueError(f"{op}: state_index must be None when cu_seqlens is given, got both")
    if q.shape[0] != 1:
        refuse(op, "q", "have B = 1 with state_index", f"B = {q.shape[0]}")
    check_shape(op, "state_index", state_index, "(N,)", (q.shape[1],))
    check_like(op, "state_index", state_index, "q", q, torch.int32)
    if values_are_visible(state_index):
        check_rows(op, state_index, states)


def check_rows(op: str, state_index: Tensor, states: int) -> None:
    """The values: rows that the state has."""
    low, high = (int(i) for i in state_index.aminmax())
    if low < 0 or high >= states:
        wanted = f"be in 0 .. {states - 1} (the state has {states} rows)"
        refuse(op, "state_index", wanted, f"{low} .. {high}")


def values_are_visible(x: Tensor) -> bool:
    """Whether reading ``x`` costs nothing and means something: on the CPU, not traced, not fake."""
    known = type(x) in (Tensor, torch.nn.Parameter)
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and known
