"""The state of linear attention: a monoid, so windows, tiles and ranks add."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LinState:
    """What ``lin_reduce`` keeps of a set of tokens; R rows (batch items) or segments.

    S (R, H, D, E): sum of phi(k) v^T, centred (about the means of phi(k) and v) when ``centered``.
    s (R, H, D): sum of phi(k).  m (R, H, E): sum of v.  n (R,): token count, int64.
    """

    S: Tensor
    s: Tensor
    m: Tensor
    n: Tensor
    centered: bool = False
