"""What ``local_attn`` accepts: sizes and words are checked once, and become a ``Geometry``."""

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .geometry import Geometry

OP = "local_attn"
Pair = tuple[int, int]


def check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Dtypes, devices, and (B, H, D) of queries against keys; the numbers of tokens belong to the grid."""
    checks.check_keys_values(OP, k, v)
    wanted, got = (tuple(x.shape[i] for i in (0, 2, 3)) for x in (q, k))
    if any(a != b for a, b in zip(wanted, got, strict=True)):
        checks.refuse(OP, "k", f"have q's (B, H, D) = {wanted}", got)
    checks.check_like(OP, "k", k, "q", q)


def check_extra(extra_kv: object, q: Tensor, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(keys, values) that image queries see besides their windows, or (None, None)."""
    if extra_kv is None:
        return None, None
    if not isinstance(extra_kv, (tuple, list)) or len(extra_kv) != 2:
        kind = type(extra_kv).__name__
        raise TypeError(f"{OP}: extra_kv must be None or a pair of tensors (keys, values), got {kind}")
    k, v_extra = extra_kv
    checks.check_tokens(OP, "extra_kv keys", k, "(B, P, H, D)")
    checks.check_tokens(OP, "extra_kv values", v_extra, "(B, P, H, E)")
    batch, _, heads, key_dim = q.shape
    shape = (batch, k.shape[1], heads)
    checks.check_shape(OP, "extra_kv keys", k, "(B, P, H, D)", (*shape, key_dim))
    checks.check_shape(OP, "extra_kv values", v_extra, "(B, P, H, E)", (*shape, v.shape[3]))
    return k, v_extra


def check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{OP}: {name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{OP}: {name} must be >= {least}, got {value}")


def check_pair(name: str, value: object, parts: tuple[str, str], least: int) -> Pair:
    if not isinstance(value, (tuple, list, torch.Size)) or len(value) != 2:
        raise TypeError(f"{OP}: {name} must be a pair ({', '.join(parts)}), got {value!r}")
    for part, number in zip(parts, value, strict=True):
        check_integer(f"{name} {part}", number, least)
    return value[0], value[1]


def check_window(radius: object, window: object) -> tuple[int, int, int]:
    """(reach_y, reach_x, limit) of a circle or a rectangle; exactly one is given."""
    if (radius is None) == (window is None):
        got = "neither" if radius is None else "both"
        raise ValueError(f"{OP}: exactly one of radius and window must be given, got {got}")
    if radius is not None:
        checks.check_number(OP, "radius", radius, above=0)
        if not math.isfinite(radius) or radius > 1e9:
            raise ValueError(f"{OP}: radius must be at most 1e9 tokens, got {radius}")
        limit = math.ceil(radius * radius) - 1  # strict: dy^2 + dx^2 < radius^2, in integers
        return math.isqrt(limit), math.isqrt(limit), limit
    pair = (window, window) if isinstance(window, int) and not isinstance(window, bool) else window
    height, width = check_pair("window", pair, ("height", "width"), 1)
    for part, number in (("height", height), ("width", width)):
        if number % 2 == 0:
            raise ValueError(f"{OP}: window {part} must be odd (as many tokens on both sides), got {number}")
    return height // 2, width // 2, (height // 2) ** 2 + (width // 2) ** 2


def check_scale(scale: object, key_dim: int) -> float:
    if scale is None:
        return key_dim**-0.5
    if isinstance(scale, torch.SymFloat):
        return scale
    checks.check_number(OP, "scale", scale)
    if not math.isfinite(scale):
        raise ValueError(f"{OP}: scale must be finite, got {scale}")
    return float(scale)


def count_globals(name: str, x: Tensor, image: int, n_global: int, partial: bool, what: str) -> int:
    """How many global tokens ``x`` holds: all, or none where a partial run may leave them out."""
    tokens = x.shape[1]
    if tokens == image + n_global:
        return n_global
    if partial and tokens == image:
        return 0
    wanted = f"have {n_global} + {image} = {n_global + image} tokens (n_global + {what})"
    if partial and n_global:
        wanted += f" or {image} (without the global ones)"
    checks.refuse(OP, name, wanted, tokens)


def check_geometry(
    q: Tensor,
    k: Tensor,
    grid: object,
    radius: object,
    window: object,
    n_global: object,
    global_first: Any,
    q_rows: object,
) -> Geometry:
    rows, width = check_pair("grid", grid, ("height", "width"), 1)
    reach = check_window(radius, window)
    check_integer("n_global", n_global, 0)
    if not isinstance(global_first, bool):
        raise TypeError(f"{OP}: global_first must be True or False, got {global_first!r}")
    partial = q_rows is not None
    first, last = check_pair("q_rows", q_rows, ("first", "last"), 0) if partial else (0, rows)
    if partial and not first <= last <= rows:
        raise ValueError(f"{OP}: q_rows must be first <= last <= {rows}, grid's height, got {(first, last)}")
    k_global = count_globals("k", k, rows * width, n_global, partial, "grid height x width")
    q_global = count_globals("q", q, (last - first) * width, n_global, partial, "query rows x grid width")
    return Geometry(rows, width, first, last, q_global, k_global, int(global_first), *reach)
