"""Rotary tables over a token grid: the first half of a head turns with the row, the second with the column.

    theta_j = 10000 ^ -(j / (m - 1)),  j = 0..m-1,  m = head_dim / 4         both ends included
    channel i <  head_dim / 2:  angle = row    * theta_{floor(i / 2)}
    channel i >= head_dim / 2:  angle = column * theta_{floor((i - head_dim / 2) / 2)}

Positions are integers from 0 and are not rescaled with the resolution.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ...kernels.linear_attn.features import rotate as turn

Rope = tuple[Tensor, Tensor]

# Here and not in buffers: .half() would round a buffer, and the phase error grows with the position.
_CACHE: dict[tuple, Rope] = {}
_CACHE_LOCK = threading.Lock()
_CACHE_ENTRIES = 16
_CACHE_NUMEL = 1 << 20  # larger tables are cheap beside the work on so many tokens, and would pin memory


def rope_table(
    height: int, width: int, head_dim: int, device: torch.device, dtype: torch.dtype, copies: int = 1
) -> Rope:
    """Cosines and sines of every token of a row-major (height, width) grid.

    Args:
        height, width: tokens; may be symbolic while compiling or exporting.
        head_dim: channels of a head, a multiple of 4.
        device: where the tables live.
        dtype: of the activations; float64 gives float64 tables, everything else float32.
        copies: the table is repeated side by side, for feature maps that put several halves into a head.
    Returns: (cos, sin), each (height * width, copies * head_dim).
    Raises: ValueError when head_dim is not a positive multiple of 4.
    """
    if head_dim < 4 or head_dim % 4:
        raise ValueError(f"rope_table: head_dim must be a positive multiple of 4, got {head_dim}")
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    key = ("rope", height, width, head_dim, copies)
    return cached_table(key, device, acc, lambda: _build(height, width, head_dim, device, acc, copies))


def cached_table(key: tuple, device: torch.device, dtype: torch.dtype, build: Callable[[], Rope]) -> Rope:
    """What ``build`` makes, kept under ``key``, device and dtype where sizes are numbers and tensors real."""
    if _is_recording(device):
        return build()
    key = (*key, torch.device(device), dtype)
    # Under FakeTensorMode and its like even an empty tensor is of another class: nothing is read or kept.
    plain = type(torch.empty(0, device=device)) is Tensor
    table = _CACHE.get(key) if plain else None
    if table is not None:
        return table
    with torch.inference_mode(False):  # inference tensors could not be saved for a later backward
        table = build()
    if plain and table[0].numel() <= _CACHE_NUMEL:
        with _CACHE_LOCK:
            _CACHE[key] = table
            while len(_CACHE) > _CACHE_ENTRIES:
                del _CACHE[next(iter(_CACHE))]  # the oldest
    return table


def _is_recording(device: torch.device) -> bool:
    """Whether the run is compiled, traced or captured: sizes may be symbolic, tables must be part of it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch.device(device).type == "cuda" and torch.cuda.is_current_stream_capturing()


def frequencies(head_dim: int, device: torch.device | str | None = None) -> Tensor:
    """theta, (head_dim / 4,), float32 even for float64 models: the authors' checkpoints hold it so."""
    return 1.0 / 10000 ** torch.linspace(0, 1, head_dim // 4, device=device, dtype=torch.float32)


def _build(
    height: int, width: int, head_dim: int, device: torch.device, acc: torch.dtype, copies: int
) -> Rope:
    theta = frequencies(head_dim, device).to(acc).repeat_interleave(2)
    rows = torch.arange(height, device=device).to(acc)[:, None] * theta
    cols = torch.arange(width, device=device).to(acc)[:, None] * theta
    shape = (height, width, head_dim // 2)

    def spread(by_row: Tensor, by_col: Tensor) -> Tensor:
        both = (by_row[:, None].expand(shape), by_col[None].expand(shape))
        return torch.cat(both * copies, -1).reshape(height * width, copies * head_dim)

    return spread(rows.cos(), cols.cos()), spread(rows.sin(), cols.sin())


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turns the interleaved pairs of ``x`` (B, N, H, D) by tables (N, D); same shape and dtype."""
    return turn(x, *rope).to(x.dtype)
