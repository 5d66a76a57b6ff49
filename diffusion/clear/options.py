"""What a user may ask of CLEAR, checked once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "clear"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClearOptions:
    """CLEAR's options; the published files settle the first two.

    Args:
        radius: image queries see the image tokens at dy^2 + dx^2 < radius^2, in tokens. Published: 8, 16, 32.
        down_factor: image queries also see keys and values pooled over blocks of this side, with learnt
            weights; 1: none. Published: 1 and, for radius 8 and 16, 4. Not linear: N / down_factor^2 keys.
        pooled_tokens: (rows, columns): image queries also see the image's mean over that many areas, whatever
            its size, so the cost stays linear. Ours, no published weights. Not with down_factor.
        proportional_attention: scores grow with the logarithm of the number of tokens. For sizes above the
            trained one; joint_attention_kwargs={"proportional_attention": ...} overrules it for one call.
        ntk_factor: the base of FLUX's rotary frequencies is multiplied by it; 10 above 1024 px, else 1.
    Raises: ValueError, TypeError.
    """

    radius: float = 16
    down_factor: int = 1
    pooled_tokens: tuple[int, int] | None = None
    proportional_attention: bool = False
    ntk_factor: float = 1.0

    def __post_init__(self) -> None:
        _check_number("radius", self.radius)
        _check_integer("down_factor", self.down_factor)
        _check_number("ntk_factor", self.ntk_factor)
        if not isinstance(self.proportional_attention, bool):
            raise TypeError(
                f"proportional_attention must be True or False, got {self.proportional_attention!r}"
            )
        if self.pooled_tokens is not None:
            object.__setattr__(self, "pooled_tokens", _check_pair(self.pooled_tokens))
            if self.down_factor > 1:
                raise ValueError(
                    "only one of down_factor and pooled_tokens can be given, got "
                    f"{self.down_factor} and {self.pooled_tokens}"
                )

    @property
    def pooled(self) -> bool:
        return self.down_factor > 1 or self.pooled_tokens is not None


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and > 0, got {value}")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")


def _check_pair(value: object) -> tuple[int, int]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"pooled_tokens must be None or a pair (rows, columns), got {value!r}")
    for number in value:
        _check_integer("pooled_tokens", number)
    return tuple(value)
