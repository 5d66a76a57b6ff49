"""CLEAR (arXiv 2412.16112): attention of FLUX, SD3 and DiT transformers becomes local on the image's grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..method import Cost, Grid, Method, make_options
from .options import NAME, ClearOptions

if TYPE_CHECKING:
    from ..handle import LinearizedHandle

__all__ = ["METHOD", "ClearOptions"]

FLUX, SD3, DIT = "FluxTransformer2DModel", "SD3Transformer2DModel", "DiTTransformer2DModel"
ATTENTIONS = {FLUX: ("attn",), SD3: ("attn",), DIT: ("attn1",)}
FLUX_IMAGE_TOKENS = 4096  # 1024 px


class ClearMethod(Method):
    """Swaps the self-attention of every block; SD3.5's second one (``attn2``) stays softmax."""

    name = NAME
    models = (FLUX, SD3, DIT)
    official = "CLEAR's authors published weights for FLUX.1-dev only"

    def options(self, model: nn.Module, words: Mapping[str, Any]) -> ClearOptions:
        options = make_options(ClearOptions, self.name, words)
        if options.ntk_factor != 1 and kind(model) != FLUX:
            raise ValueError(
                f"linearize: ntk_factor must be 1 for {kind(model)}, which has no rotary embedding, got "
                f"{options.ntk_factor}"
            )
        return options

    def targets(self, model: nn.Module) -> dict[str, nn.Module]:
        """``attn`` (FLUX, SD3) or ``attn1`` (DiT) of the blocks."""
        names = ATTENTIONS[kind(model)]
        found = {}
        for name, module in model.named_modules():
            block, _, last = name.rpartition(".")
            if last in names and "transformer_blocks." in block:
                found[name] = module
        return found

    def attention(self, model: nn.Module, name: str, module: nn.Module) -> type:
        from .modules import FluxClear, JointClear, swapped_class

        mixin = FluxClear if kind(model) == FLUX else JointClear
        return swapped_class(mixin, type(module), trained_image_tokens(model))

    def trained(self, module: nn.Module) -> tuple[str, ...]:
        return ("to_q", "to_k", "to_v") if module.pre_only else ("to_q", "to_k", "to_v", "to_out")

    def prepare(self, name: str, module: nn.Module, options: ClearOptions, init: str | None) -> None:
        module.clear_options = options
        f, like = options.down_factor, module.to_q.weight
        if f > 1:
            mean = torch.full((1, 1, 1, f, 1, f, 1), 1 / f**2, device=like.device, dtype=like.dtype)
            module.spatial_weight = nn.Parameter(mean)
        if init == "random":
            for child in self.trained(module):
                linear = getattr(module, child)
                (linear[0] if child == "to_out" else linear).reset_parameters()

    def finish(self, model: nn.Module, options: ClearOptions) -> None:
        """FLUX's rotary base; SD3.5's second attentions learn to overlook the keywords of the first."""
        if options.ntk_factor != 1:
            model.pos_embed.theta_before = model.pos_embed.theta
            model.pos_embed.theta = model.pos_embed.theta * options.ntk_factor
        for module in second_attentions(model):
            from .modules import softmax_beside

            module.__class__ = softmax_beside(type(module))

    def restore(self, model: nn.Module) -> None:
        if "theta_before" in model.pos_embed.__dict__:
            model.pos_embed.theta = model.pos_embed.__dict__.pop("theta_before")
        for module in second_attentions(model):
            module.__class__ = type(module).ORIGINAL

    def model_mixin(self, model: nn.Module) -> type:
        from . import models

        return {FLUX: models.ClearFlux, SD3: models.ClearSD3, DIT: models.ClearDiT}[kind(model)]

    def source(self, model: nn.Module) -> str:
        from .convert import HUB_ID

        if kind(model) != FLUX:
            raise ValueError(
                f"linearize: weights='official' are for {FLUX}, got {kind(model)}: {self.official}. Give "
                "weights of your own training, or None"
            )
        return HUB_ID

    def read(
        self, model: nn.Module, source: str | Path, words: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from .convert import read_files

        return read_files(source, words, self.trained_shapes(model))

    def trained_shapes(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what CLEAR trains, without ``spatial_weight``."""
        return {
            f"{name}.{child}.{key}": tuple(parameter.shape)
            for name, module in self.targets(model).items()
            for child in self.trained(module)
            for key, parameter in getattr(module, child).named_parameters()
        }

    def write(self, handle: LinearizedHandle, folder: Path) -> None:
        from .convert import write_files

        write_files(handle.options, handle.state_dict(), folder)

    def grid(self, model: nn.Module, name: str, latent: Grid) -> Grid:
        patch = 2 if kind(model) == FLUX else model.config.patch_size  # FLUX pipelines pack 2 x 2
        return latent[0] // patch, latent[1] // patch

    def cost(self, model: nn.Module, name: str, module: nn.Module, grid: Grid, text: int) -> Cost:
        from .cost import cost_of

        return cost_of(module, grid, text)


def kind(model: nn.Module) -> str:
    """The diffusers class of the model, swapped or not."""
    return next(cls.__name__ for cls in type(model).__mro__ if cls.__name__ in ATTENTIONS)


def trained_image_tokens(model: nn.Module) -> int:
    if kind(model) == FLUX:
        return FLUX_IMAGE_TOKENS
    return (model.config.sample_size // model.config.patch_size) ** 2


def second_attentions(model: nn.Module) -> list[nn.Module]:
    blocks = model.transformer_blocks if kind(model) == SD3 else ()
    return [block.attn2 for block in blocks if block.attn2 is not None]


METHOD = ClearMethod()
