"""What position does to queries and keys behind the softmax: two forms, from one pair of tables.

    rotate   pairs (2j, 2j + 1) turned by the token's angles    q_t . k_s mixes the channels of a pair
    cosine   (x cos, x sin), twice as wide                      sum_c q_c k_c cos(angle_t,c - angle_s,c)

Both are linear in (x cos, x sin) channel by channel, so one state serves both, see ``query_features``.
"""

import torch
from torch import Tensor

from ..linear_attn.features import quarter_turn, rotated

FORMS = ("rotate", "cosine")
Tables = tuple[Tensor, Tensor]


def spread(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., N, H, D) -> (..., N, H, 2 D): x cos beside x sin."""
    return torch.cat((x * cos, x * sin), -1)


def encoded(x: Tensor, rope: Tables | None, form: str) -> Tensor:
    """Queries, or keys behind their softmax, in the form; rope None leaves them."""
    if rope is None:
        return x
    return rotated(x, *rope) if form == "rotate" else spread(x, *rope)


def query_features(q: Tensor, rope: Tables | None, form: str) -> Tensor:
    """What reads a state of (k cos, k sin): (R q) . (k cos + J k sin) = (R q, -J R q), J = ``quarter_turn``.

    The rotation of a key is k cos + (J k) sin, and x . J k = -J x . k.
    """
    if rope is None or form == "cosine":
        return encoded(q, rope, form)
    turned = rotated(q, *rope)
    return torch.cat((turned, -quarter_turn(turned)), -1)
