"""Partial results of softmax attention over disjoint sets of keys become the result over all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks

OP = "merge_attn"


def merge_attn(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The attention over all keys from attentions of the same queries over disjoint sets of keys.

        lse = log sum_p exp(lse_p)        y = sum_p exp(lse_p - lse) y_p

    Args:
        parts: pairs (y, lse) as ``local_attn`` returns them: y (B, N, H, E), lse (B, N, H), natural log. A
            part that saw no key has lse = -inf; its y counts for nothing.
    Returns: (y, lse) of the same shapes, y in the dtype of the first, lse in float32 (float64 where a part's
        is). Differentiable, as often as wanted.
    Raises: ValueError for no parts, ShapeError where shapes differ, TypeError for what is no pair.
    Source: the log-sum-exp recurrence of blockwise softmax, arXiv 1805.02867.
    """
    if not parts:
        raise ValueError(f"{OP}: parts must hold at least one pair (y, lse), got none")
    for number, part in enumerate(parts):
        _check_part(number, part, parts[0])
    lses = torch.stack([lse for _, lse in parts])
    lse = lses.logsumexp(0)
    shift = lse.masked_fill(lse == float("-inf"), 0)  # queries that saw no key in any part: y = 0
    y = torch.zeros_like(parts[0][0], dtype=lse.dtype)
    for (part, _), own in zip(parts, lses, strict=True):
        weight = (own - shift).exp().unsqueeze(-1)
        y = y + weight * torch.where(weight == 0, 0, part)
    return y.to(parts[0][0].dtype), lse


def _check_part(number: int, part: object, first: tuple[Tensor, Tensor]) -> None:
    name = f"parts[{number}]"
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise TypeError(f"{OP}: {name} must be a pair (y, lse), got {type(part).__name__}")
    y, lse = part
    checks.check_tokens(OP, f"{name} y", y, "(B, N, H, E)")
    checks.check_shape(OP, f"{name} y", y, "(B, N, H, E)", tuple(first[0].shape))
    checks.check_shape(OP, f"{name} lse", lse, "(B, N, H)", tuple(y.shape[:3]))
    if lse.dtype not in (torch.float32, torch.float64):
        checks.refuse(OP, f"{name} lse", "be float32 or float64", lse.dtype)
    checks.check_like(OP, f"{name} lse", lse, "its y", y, lse.dtype)
