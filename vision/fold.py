"""The inference form of a model: fewer steps, the same numbers.

Folded, because it is exact in eval mode:

    BatchNorm behind a convolution or the neck's Linear     into its weight and bias
    layer scale behind attn.proj and ffn.fc2                into their weights and biases
    the identity of x + depthwise(x)                        into the centre tap of the kernel
    L2ViT's local concentration, BatchNorm before conv2     its scale into conv2; its shift stays, see below

The BatchNorm in L2ViT's local concentration stands before a convolution that pads with zeros. A shift folded
into that convolution's bias would also shift what the padding contributes, which the model does not: wrong
within three tokens of the border. So the shift stays, as one addition.
"""

import copy

import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .l2vit.mixer import LocalConcentration
from .l2vit.stem import PaddedStem
from .layers import ConvStem, DepthwiseConv, Downsample, LayerScale, Neck, ResidualDepthwiseConv
from .pyramid import Block
from .timm_model import TimmModel


class ChannelShift(nn.Module):
    """x + shift; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, shift: Tensor, requires_grad: bool = True) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift, requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift[:, None, None]


def fold(model: nn.Module) -> nn.Module:
    """A folded copy of a model, for inference; the model itself is not changed.

    Args:
        model: one of this library's models, or timm's features_only wrapper around one; in eval mode. Any
            dtype; any device that holds numbers, so not "meta"; float64 arithmetic. A model that has none of
            the parts above (InLine's four forms) comes back as an equal copy.
    Returns: the same class with the same outputs up to rounding, in eval mode. Its state dict is its own: it
        loads into no other model, and training it trains something else than the model. What is frozen in
        the model is frozen in the copy.
    Raises: TypeError for another class; ValueError in training mode and for parameters on "meta".
    """
    backbone = model.model if isinstance(model, FeatureGetterNet) else model
    if not isinstance(backbone, TimmModel):
        raise TypeError(f"fold: model must be a vision model of linzoo, got {type(backbone).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("fold: model must be in eval mode (call model.eval() first), got training mode")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("fold: model must hold numbers to be folded, got parameters on the device 'meta'")
    folded = copy.deepcopy(model)
    with torch.no_grad():
        for module in list(folded.modules()):
            for kind, fold_part in _PARTS:
                if isinstance(module, kind):
                    fold_part(module)
    return folded.eval()  # the new parts are born in training mode


def _fold_norms(module: nn.Module, pairs: tuple[tuple[str, str], ...]) -> None:
    """BatchNorms, by the name of what stands before them, into that."""
    for before, name in pairs:
        norm = getattr(module, name)
        if isinstance(norm, _BatchNorm):
            scale, shift = _affine(norm)
            _scale_output(getattr(module, before), scale, shift)
            setattr(module, name, nn.Identity())


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift), float64, of a BatchNorm in eval mode: y = scale x + shift."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("fold: every BatchNorm must keep running statistics, got one without")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _scale_output(layer: nn.Conv2d | nn.Linear, scale: Tensor, shift: Tensor | float = 0.0) -> None:
    """The layer's output y becomes scale y + shift, channel by channel."""
    per_row = scale.double().view(-1, *(1,) * (layer.weight.ndim - 1))
    layer.weight.copy_(layer.weight.double() * per_row)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * scale.double() + shift)
    elif isinstance(shift, Tensor):
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype))


def _fold_stem(stem: nn.Module) -> None:
    count = 4 if isinstance(stem, ConvStem) else 2
    _fold_norms(stem, tuple((f"conv{i}", f"norm{i}") for i in range(count)))


def _fold_block(block: Block) -> None:
    """Layer scales into the last Linear of their branch; a mixer without ``proj`` keeps its own."""
    for name, last in (("ls1", getattr(block.attn, "proj", None)), ("ls2", block.ffn.fc2)):
        scale = getattr(block, name)
        if isinstance(scale, LayerScale) and isinstance(last, nn.Linear):
            _scale_output(last, scale.gamma)
            setattr(block, name, nn.Identity())


def _fold_residuals(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ResidualDepthwiseConv):
            size = child.kernel_size[0]
            like = {"device": child.weight.device, "dtype": child.weight.dtype}
            plain = DepthwiseConv(child.in_channels, size, **like)
            plain.load_state_dict(child.state_dict())
            for copied, source in zip(plain.parameters(), child.parameters(), strict=True):
                copied.requires_grad_(source.requires_grad)
            plain.weight[:, :, size // 2, size // 2] += 1
            setattr(module, name, plain.eval())


def _fold_local_concentration(lcm: LocalConcentration) -> None:
    if not isinstance(lcm.norm, _BatchNorm):
        return
    scale, shift = _affine(lcm.norm)
    if scale.abs().min() < 1e-6:  # the shift before the convolution would be shift / scale
        return
    weight = lcm.conv2.weight
    weight.copy_(weight.double() * scale.view(-1, 1, 1, 1))  # depthwise: its inputs are its outputs
    trainable = lcm.norm.bias is not None and lcm.norm.bias.requires_grad
    lcm.norm = ChannelShift((shift / scale).to(weight.dtype), trainable).eval()


_PARTS = (
    (ConvStem, _fold_stem),
    (PaddedStem, _fold_stem),
    (Downsample, lambda m: _fold_norms(m, (("conv", "norm"),))),
    (Neck, lambda m: _fold_norms(m, (("proj", "norm"),))),
    (Block, _fold_block),
    (LocalConcentration, _fold_local_concentration),
    (nn.Module, _fold_residuals),
)
