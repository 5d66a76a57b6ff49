"""What ``segment_sum`` and ``segment_gather`` accept, checked once."""

import torch
from torch import Tensor

from .. import checks


def check_rows(op: str, x: object, layout: str) -> None:
    """A floating tensor with at least one dimension; it may have no rows, but not rows without channels."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be a tensor {layout}, got {type(x).__name__}")
    if x.dim() < 1:
        checks.refuse(op, "x", f"have at least 1 dimension {layout}", tuple(x.shape))
    if any(size == 0 for size in x.shape[1:]):
        checks.refuse(op, "x", f"have no dimension of size 0 in C... of {layout}", tuple(x.shape))
    checks.check_floating(op, "x", x)


def check_index(op: str, index: object, x: Tensor, rows: int | None) -> None:
    """int64 (N,), or (``rows``,), on x's device."""
    if not isinstance(index, Tensor):
        raise TypeError(f"{op}: index must be a tensor (N,), got {type(index).__name__}")
    if index.dim() != 1:
        checks.refuse(op, "index", "have 1 dimension (N,)", tuple(index.shape))
    if rows is not None and index.shape[0] != rows:
        checks.refuse(op, "index", f"have x's number of rows N = {rows}", index.shape[0])
    checks.check_like(op, "index", index, "x", x, torch.int64)


def check_values(op: str, index: Tensor, segments: int) -> None:
    """The values: 0 .. segments - 1. Read on the CPU only (a GPU would wait)."""
    if index.numel() == 0 or index.device.type != "cpu":
        return
    low, high = (int(i) for i in index.aminmax())
    if low < 0 or high >= segments:
        checks.refuse(op, "index", f"be in 0 .. {segments - 1}", f"{low} .. {high}")
