"""What position does to queries and keys behind the softmax: two forms, from one pair of tables.

    rotate   pairs (2j, 2j + 1) turned by the token's angles    q_t . k_s mixes the channels of a pair
    cosine   (x cos, x sin), twice as wide                      sum_c q_c k_c cos(angle_t,c - angle_s,c)

Both are linear in (x cos, x sin) channel by channel, so one state serves both, see ``query_features``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FORMS = ("rotate", "cosine")
Tables = tuple[Tensor, Tensor]


def swapped(x: Tensor) -> Tensor:
    """(x_0, x_1) -> (-x_1, x_0) for each pair of the last axis; an odd last channel becomes 0."""
    pairs = x.shape[-1] // 2
    even, odd = x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
    turned = torch.stack((-odd, even), -1).flatten(-2)
    return F.pad(turned, (0, 1)) if x.shape[-1] % 2 else turned


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., N, H, D) by tables (N, H or 1, D): every pair turned by its angle, in the tables' precision."""
    return torch.addcmul(x * cos, swapped(x).to(sin.dtype), sin)


def spread(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., N, H, D) -> (..., N, H, 2 D): x cos beside x sin."""
    return torch.cat((x * cos, x * sin), -1)


def encoded(x: Tensor, rope: Tables | None, form: str) -> Tensor:
    """Queries, or keys behind their softmax, in the form; rope None leaves them."""
    if rope is None:
        return x
    return rotated(x, *rope) if form == "rotate" else spread(x, *rope)


def query_features(q: Tensor, rope: Tables | None, form: str) -> Tensor:
    """What reads a state of (k cos, k sin): with J = ``swapped``, (R q) . (k cos + J k sin) = (R q, -J R q).

    The rotation of a key is k cos + (J k) sin, and x . J k = -J x . k.
    """
    if rope is None or form == "cosine":
        return encoded(q, rope, form)
    turned = rotated(q, *rope)
    return torch.cat((turned, -swapped(turned)), -1)
