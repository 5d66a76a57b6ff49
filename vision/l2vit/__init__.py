"""L2ViT, window attention and linear global attention in turn, arXiv 2501.16182."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .mixer import LinearGlobalAttention, LocalConcentration, WindowAttention
from .model import L2ViT
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "L2ViT",
    "LinearGlobalAttention",
    "LocalConcentration",
    "WindowAttention",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "to_official",
]

_RELEASE = "https://github.com/ChuanyangZheng/L2ViT/releases/download/v1.0/"


def _cfg(file: str, top1: str | None = None, **fields) -> dict:
    return pretrained_cfg(
        url=_RELEASE + file,
        license="mit",
        origin_url="https://github.com/ChuanyangZheng/L2ViT",
        paper_name="The Linear Attention Resurrection in Vision Transformer",
        paper_ids="arXiv:2501.16182",
        **({"notes": (f"ImageNet-1k top-1 {top1} (authors' README)",)} if top1 else {}),
        **fields,
    )


# The authors evaluate at 384 by squashing the whole picture to the square.
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0, "crop_mode": "squash"}

default_cfgs = generate_default_cfgs(
    {
        "l2vit_tiny.in1k": _cfg("L2ViT-Tiny-checkpoint-best-ema.pth", "83.1"),
        "l2vit_small.in1k": _cfg("L2ViT-Small-checkpoint-best-ema.pth", "84.1"),
        "l2vit_base.in1k": _cfg("L2ViT-Base-checkpoint-best-ema.pth", "84.4"),
        "l2vit_base.in22k_ft_in1k": _cfg("L2ViT-Base-22k21k-finetune-224-checkpoint-best.pth", "86.0"),
        "l2vit_base.in22k": _cfg("L2ViT-Base-22k-pretrain-checkpoint-best.pth", num_classes=21841),
        "l2vit_base_384.in22k_ft_in1k": _cfg(
            "L2ViT-Base-22k21k-finetune-384-checkpoint-best.pth", "87.0", **_AT_384
        ),
    }
)


def _create(name: str, pretrained: bool, given: dict) -> L2ViT:
    fixed = VARIANTS[name].kwargs()
    return build(L2ViT, name, pretrained, OFFICIAL, fixed, given)


@register_model
def l2vit_tiny(pretrained: bool = False, **kwargs) -> L2ViT:
    """L2ViT-Tiny: 28.6 M parameters, 4.7 GMACs at 224."""
    return _create("l2vit_tiny", pretrained, kwargs)


@register_model
def l2vit_small(pretrained: bool = False, **kwargs) -> L2ViT:
    """L2ViT-Small: 50.2 M parameters, 9.0 GMACs at 224."""
    return _create("l2vit_small", pretrained, kwargs)


@register_model
def l2vit_base(pretrained: bool = False, **kwargs) -> L2ViT:
    """L2ViT-Base: 88.6 M parameters, 15.9 GMACs at 224."""
    return _create("l2vit_base", pretrained, kwargs)


@register_model
def l2vit_base_384(pretrained: bool = False, **kwargs) -> L2ViT:
    """L2ViT-Base with windows of 12: 88.6 M parameters, 47.5 GMACs at 384."""
    return _create("l2vit_base_384", pretrained, kwargs)
