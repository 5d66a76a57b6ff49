"""A LinFusion UNet over ranks: which modules change, at which resolution they stand, and the whole call.

Exchanged: rows beyond the band for every convolution with a kernel, moments for every GroupNorm, states for
every self-attention. All else works on single tokens, or on a token and the text, and stays as it is.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from .agree import agree_on
from .bands import cut
from .conv import BandConv, check_conv, is_spatial
from .linfusion import BandLinFusion
from .norm import BandGroupNorm
from .place import Parallel
from .plan import Plan, Target, check_inference

BLOCKS = (
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UNetMidBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
)
SHAPES = {"sample": 4, "encoder_hidden_states": 3}
VALUES = ("sample", "encoder_hidden_states", "timestep")
OTHERS = (nn.ConvTranspose2d, nn.AvgPool2d, nn.MaxPool2d, nn.Conv1d, nn.Conv3d)


class ParallelUNet(Parallel):
    """The UNet's class while parallel: the same inputs in, the same whole output out, on every rank."""

    def forward(self, *args: Any, **words: Any) -> Any:
        words = bound(self, args, words)
        check_call(self, words)
        call, sample = self.place.call, words["sample"]
        call.link.traffic.clear()
        agree_on(call.link, words, SHAPES, VALUES, sample.device)
        levels = levels_of(self)[1]
        why = f"the model halves rows {levels} times"
        bands = cut(sample.shape[2], call.link.world, 2**levels, call.rows, "latent rows", why)
        call.begin(bands, levels)
        try:
            out = super().forward(**sliced(self, words))
            return whole(self, out)
        finally:
            call.end()


def bound(unet: nn.Module, args: tuple, words: dict) -> dict[str, Any]:
    """All arguments of the call by name."""
    from diffusers import UNet2DConditionModel

    filled = inspect.signature(UNet2DConditionModel.forward).bind(unet, *args, **words)
    filled.apply_defaults()
    del filled.arguments["self"]
    return filled.arguments


def check_call(unet: nn.Module, words: dict[str, Any]) -> None:
    """Raises: RuntimeError under gradients, ValueError for what mixes rows in a way that is not exchanged."""
    check_inference()
    extra = words["cross_attention_kwargs"] or {}
    if "ip_adapter_masks" in extra:
        raise ValueError(
            "parallelize: ip_adapter_masks must be left out (they are of the whole image, a rank has a "
            "band), got some"
        )
    if any(getattr(block, "s1", None) for block in unet.up_blocks):
        raise ValueError(
            "parallelize: FreeU must be off (its Fourier filter reads the whole image), got it on; call "
            "disable_freeu()"
        )
    for name, module, _ in changing(unet):
        if not isinstance(module, Parallel):
            raise ValueError(
                f"parallelize: the UNet must stay as it was, got a new {name}. Load LoRA weights before "
                "parallelize, or close() the handle and call parallelize again"
            )


def sliced(unet: nn.Module, words: dict[str, Any]) -> dict[str, Any]:
    """The arguments with this rank's rows: of the latents, and of what a ControlNet or T2I adapter adds."""
    place = unet.place

    def own(x: Tensor) -> Tensor:
        for bands in place.call.levels:
            if bands.rows == x.shape[2]:
                a, b = bands.of(place.link.rank)
                return x[:, :, a:b]
        sizes = [bands.rows for bands in place.call.levels]
        raise ValueError(
            f"parallelize: additional residuals must have one of {sizes} rows, got {tuple(x.shape)}"
        )

    words = dict(words, sample=own(words["sample"]))
    for name in ("down_block_additional_residuals", "down_intrablock_additional_residuals"):
        if words[name] is not None:
            words[name] = [own(x) for x in words[name]]
    if words["mid_block_additional_residual"] is not None:
        words["mid_block_additional_residual"] = own(words["mid_block_additional_residual"])
    return words


def whole(unet: nn.Module, out: Any) -> Any:
    """The output with all rows, in the kind of container that the UNet returned."""
    place = unet.place
    sample = place.link.gather_rows(out[0], 2, place.bands(), place.sender("gather"))
    return (sample, *out[1:]) if type(out) is tuple else type(out)(sample=sample)


def levels_of(unet: nn.Module) -> tuple[dict[str, int], int]:
    """How often rows are halved before the modules of each prefix, and how often in all."""
    level, prefixes = 0, {"conv_in.": 0, "conv_norm_out.": 0, "conv_out.": 0}
    for i, block in enumerate(unet.down_blocks):
        prefixes[f"down_blocks.{i}."] = level
        level += block.downsamplers is not None
    deepest = level
    prefixes["mid_block."] = level
    for i, block in enumerate(unet.up_blocks):
        prefixes[f"up_blocks.{i}."] = level
        level -= block.upsamplers is not None
        prefixes[f"up_blocks.{i}.upsamplers."] = level
    return prefixes, deepest


def changing(unet: nn.Module) -> list[tuple[str, nn.Module, type]]:
    """(name, module, mixin) of every convolution and norm that reads other rows than its own."""
    found = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d) and is_spatial(module):
            found.append((name, module, BandConv))
        elif isinstance(module, nn.GroupNorm):
            found.append((name, module, BandGroupNorm))
    return found


def plan(unet: nn.Module, attentions: dict[str, nn.Module]) -> Plan:
    """What to change. Raises: ValueError for what cannot be spread over ranks, naming it."""
    check_structure(unet)
    check_attentions(unet, attentions)
    prefixes, _ = levels_of(unet)
    modules = changing(unet)
    for name, module, _ in modules:
        if isinstance(module, nn.Conv2d):
            check_conv(name, module)
        elif type(module) is not nn.GroupNorm:
            raise ValueError(f"parallelize: {name} must be a torch.nn.GroupNorm, got {type(module).__name__}")
    modules += [(name, module, BandLinFusion) for name, module in attentions.items()]
    targets = []
    for name, module, mixin in modules:
        fits = [prefix for prefix in prefixes if name.startswith(prefix) or f"{name}." == prefix]
        if not fits:
            raise ValueError(f"parallelize: {name} must lie in the UNet's blocks, got one outside them")
        targets.append(Target(name, module, mixin, prefixes[max(fits, key=len)]))
    return Plan(tuple(targets), ParallelUNet)


def check_structure(unet: nn.Module) -> None:
    blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]
    for block in blocks:
        if type(block).__name__ not in BLOCKS:
            raise ValueError(
                f"parallelize: the UNet's blocks must be of {BLOCKS}, got {type(block).__name__}"
            )
    if unet.config.addition_embed_type == "image_hint":
        raise ValueError('parallelize: addition_embed_type must not be "image_hint" (a second image), got it')
    for name, module in unet.named_modules():
        kind = type(module).__name__
        wrong = isinstance(module, OTHERS)
        if kind == "Downsample2D":
            wrong = not module.use_conv or module.padding != 1
        elif kind == "Upsample2D":
            wrong = module.use_conv_transpose or not module.interpolate
        if wrong:
            raise ValueError(
                f"parallelize: {name} must halve rows by a Conv2d of stride 2 with padding 1, or double "
                f"them by interpolation and a Conv2d, as in Stable Diffusion's UNets; got {kind} otherwise"
            )


def check_attentions(unet: nn.Module, attentions: dict[str, nn.Module]) -> None:
    """All self-attention is LinFusion's."""
    from diffusers.models.attention_processor import Attention

    softmax = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and not module.is_cross_attention and name not in attentions
    ]
    if softmax:
        raise ValueError(
            "parallelize: the UNet's self-attentions must be linear (softmax needs every rank's keys), got "
            f'{len(softmax)} softmax ones, the first {softmax[0]}. Call linearize(pipe, "linfusion") first'
        )
