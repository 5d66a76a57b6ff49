"""The classes of swapped attention modules: they keep CLEAR's weights and options."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from ..swap import OwnProcessor
from .attention import Grid, clear_attention, score_scale
from .options import NAME, ClearOptions
from .processors import FluxClearProcessor, JointClearProcessor

FLUX_TEXT_TOKENS = 512  # the published proportional scale starts from these and the image tokens at 1024 px


class ClearAttention(OwnProcessor):
    """Mixin of a swapped attention's class.

    Besides the attributes below it has ``spatial_weight`` (1, 1, 1, f, 1, f, 1) with ``down_factor`` f > 1.
    """

    METHOD = NAME
    TEXT_FIRST: ClassVar[bool]
    TRAINED_IMAGE_TOKENS: ClassVar[int]  # of the size that the model was trained for

    clear_options: ClearOptions

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, text: int, proportional: bool | None = None
    ) -> Tensor:
        """After projections, norms, rotary: (B, text + rows x columns, heads, dim) thrice -> the same."""
        return clear_attention(
            q,
            k,
            v,
            grid=tuple(grid),
            text=text,
            text_first=self.TEXT_FIRST,
            options=self.clear_options,
            spatial_weight=getattr(self, "spatial_weight", None),
            scale=self.scale_of(q.shape[-1], grid, text, proportional),
        )

    def scale_of(self, dim: int, grid: Grid, text: int, proportional: bool | None = None) -> float | None:
        """The scale of the scores; None for D^-1/2. ``proportional``: of this call, None for the option's."""
        options = self.clear_options
        if not (options.proportional_attention if proportional is None else proportional):
            return None
        return score_scale(dim, grid[0] * grid[1] + text, self.trained_tokens(text), options)

    def trained_tokens(self, text: int) -> int:
        return self.TRAINED_IMAGE_TOKENS + text


class FluxClear(ClearAttention):
    PROCESSOR = FluxClearProcessor
    TEXT_FIRST = True

    def trained_tokens(self, text: int) -> int:
        return self.TRAINED_IMAGE_TOKENS + FLUX_TEXT_TOKENS


class JointClear(ClearAttention):
    PROCESSOR = JointClearProcessor
    TEXT_FIRST = False


class SoftmaxBeside:
    """SD3.5's second attention of a block stays softmax; it is called with the first one's keywords."""

    def forward(self, *args: Any, **words: Any) -> Tensor:
        for word in ("grid", "text_tokens", "proportional_attention"):
            words.pop(word, None)
        return super().forward(*args, **words)


@cache
def swapped_class(mixin: type, cls: type, image_tokens: int) -> type:
    """The subclass of both, for a model that was trained with ``image_tokens`` tokens an image."""
    words = {"__module__": __name__, "TRAINED_IMAGE_TOKENS": image_tokens}
    return type(f"Clear{cls.__name__}", (mixin, cls), words)


@cache
def softmax_beside(cls: type) -> type:
    return type(cls.__name__, (SoftmaxBeside, cls), {"__module__": __name__, "ORIGINAL": cls})
