"""What a scan with ``normalizer="max"`` carries from token to token."""

from typing import NamedTuple

from torch import Tensor

NOTHING = -1e30  # the maximum before any token: finite, so that no difference of two is NaN


class MaxState(NamedTuple):
    """The state of R rows or segments, float32 (float64 for float64 input).

    With w_j the weight of token j, its input gate times the decay since, and m the maximum of log w_j:
    S (R, H, D, E): sum of e^{log w_j - m} k_j v_j^T.  n (R, H, D): sum of e^{log w_j - m} k_j.
    m (R, H): that maximum, -1e30 where no token was seen.
    """

    S: Tensor
    n: Tensor
    m: Tensor
