"""LiT, arXiv 2501.12976: DiT and PixArt with ReLU linear attention, few heads and a depthwise convolution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..method import Cost, Grid, Method
from .attention import lit_attention
from .forward import MIXINS
from .options import LitOptions, lit_options
from .weights import read_lit, start, write_lit

if TYPE_CHECKING:
    from ..handle import LinearizedHandle

__all__ = ["METHOD", "Lit", "LitOptions"]


class Lit(Method):
    """Self-attention (``attn1``) of every block; PixArt keeps its attention to the text."""

    name = "lit"
    models = tuple(MIXINS)
    inits = ()
    official = "neither code nor weights of LiT are published"

    def options(self, model: nn.Module, words: Mapping[str, Any]) -> LitOptions:
        return lit_options(model, words)

    def targets(self, model: nn.Module) -> dict[str, nn.Module]:
        return {name: m for name, m in model.named_modules() if name.rpartition(".")[2] == "attn1"}

    def attention(self, model: nn.Module, name: str, module: nn.Module) -> type:
        return lit_attention(type(module))

    def prepare(self, name: str, module: nn.Module, options: LitOptions, init: str | None) -> None:
        module.lit = options
        start(module, options)

    def model_mixin(self, model: nn.Module) -> type:
        return MIXINS[type(model).__name__]

    def read(
        self, model: nn.Module, source: str | Path, words: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return read_lit(model, self.targets(model), source, words)

    def write(self, handle: LinearizedHandle, folder: Path) -> None:
        write_lit(handle.model, handle.options, folder)

    def cost(self, model: nn.Module, name: str, module: nn.Module, grid: Grid, text: int) -> Cost:
        """Four projections, state and readout of width / heads, convolution; alive: q, k, v and y."""
        lit, tokens, width = module.lit, grid[0] * grid[1], module.inner_dim
        projections = 8 * tokens * width * width
        convolution = 2 * tokens * width * (lit.kernel_size or 0) ** 2
        return Cost(
            flops=projections + 4 * tokens * width * width / lit.heads + convolution,
            softmax_flops=projections + 4 * tokens * tokens * width,
            values=4 * width,
        )


METHOD = Lit()
