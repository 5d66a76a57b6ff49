"""InLine, injective linear attention with a predicted local residual, in four forms, arXiv 2412.06590."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from ..timm_model import TimmModel
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .cswin import InLineCSwin
from .deit import InLineDeiT
from .mixer import InLineAttention
from .pvt import InLinePVT
from .swin import InLineSwin
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "InLineAttention",
    "InLineCSwin",
    "InLineDeiT",
    "InLinePVT",
    "InLineSwin",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "to_official",
]


def _cfg(side: int = 224, top1: str | None = None, **fields) -> dict:
    """The authors evaluate on the middle of the whole picture, squashed to a square of 256 / 224 the side."""
    return pretrained_cfg(
        input_size=(3, side, side),
        crop_mode="squash",
        origin_url="https://github.com/LeapLabTHU/InLine",
        paper_name="Bridging the Divide: Reconsidering Softmax and Linear Attention",
        paper_ids="arXiv:2412.06590",
        **({"notes": (f"ImageNet-1k top-1 {top1} (authors' README)",)} if top1 else {}),
        **{"first_conv": "stem.conv", "pool_size": (side // 32, side // 32), **fields},
    )


_DEIT = {"first_conv": "patch_embed.proj", "pool_size": None}

default_cfgs = generate_default_cfgs(
    {
        "inline_deit_tiny": _cfg(224, "74.5", **_DEIT),
        "inline_deit_small": _cfg(288, "80.2", **_DEIT),
        "inline_deit_base": _cfg(448, "82.3", **_DEIT),
        "inline_pvt_tiny": _cfg(224, "78.2"),
        "inline_pvt_small": _cfg(224, "82.0"),
        "inline_pvt_medium": _cfg(224, "83.2"),
        "inline_pvt_large": _cfg(224, "83.6"),
        "inline_swin_tiny": _cfg(224, "82.4"),
        "inline_swin_small": _cfg(224, "83.6"),
        "inline_swin_base": _cfg(224, "84.1"),
        "inline_swin_base_384": _cfg(384),
        "inline_cswin_tiny": _cfg(224, "83.2"),
        "inline_cswin_small": _cfg(224, "83.8"),
        "inline_cswin_base": _cfg(224, "84.5"),
        "inline_cswin_base_384": _cfg(384),
    }
)


def _create(model_cls: type[TimmModel], name: str, pretrained: bool, given: dict) -> TimmModel:
    fixed = VARIANTS[name].kwargs()
    return build(model_cls, name, pretrained, OFFICIAL, fixed, given)


@register_model
def inline_deit_tiny(pretrained: bool = False, **kwargs) -> InLineDeiT:
    """InLine-DeiT-Tiny: 6.5 M parameters, 1.1 GMACs at 224."""
    return _create(InLineDeiT, "inline_deit_tiny", pretrained, kwargs)


@register_model
def inline_deit_small(pretrained: bool = False, **kwargs) -> InLineDeiT:
    """InLine-DeiT-Small: 16.7 M parameters, 5.0 GMACs at 288."""
    return _create(InLineDeiT, "inline_deit_small", pretrained, kwargs)


@register_model
def inline_deit_base(pretrained: bool = False, **kwargs) -> InLineDeiT:
    """InLine-DeiT-Base: 23.8 M parameters, 17.2 GMACs at 448."""
    return _create(InLineDeiT, "inline_deit_base", pretrained, kwargs)


@register_model
def inline_pvt_tiny(pretrained: bool = False, **kwargs) -> InLinePVT:
    """InLine-PVT-Tiny: 12.0 M parameters, 2.0 GMACs at 224."""
    return _create(InLinePVT, "inline_pvt_tiny", pretrained, kwargs)


@register_model
def inline_pvt_small(pretrained: bool = False, **kwargs) -> InLinePVT:
    """InLine-PVT-Small: 21.6 M parameters, 3.9 GMACs at 224."""
    return _create(InLinePVT, "inline_pvt_small", pretrained, kwargs)


@register_model
def inline_pvt_medium(pretrained: bool = False, **kwargs) -> InLinePVT:
    """InLine-PVT-Medium: 37.6 M parameters, 6.9 GMACs at 224."""
    return _create(InLinePVT, "inline_pvt_medium", pretrained, kwargs)


@register_model
def inline_pvt_large(pretrained: bool = False, **kwargs) -> InLinePVT:
    """InLine-PVT-Large: 51.1 M parameters, 10.1 GMACs at 224."""
    return _create(InLinePVT, "inline_pvt_large", pretrained, kwargs)


@register_model
def inline_swin_tiny(pretrained: bool = False, **kwargs) -> InLineSwin:
    """InLine-Swin-Tiny: 29.2 M parameters, 4.5 GMACs at 224."""
    return _create(InLineSwin, "inline_swin_tiny", pretrained, kwargs)


@register_model
def inline_swin_small(pretrained: bool = False, **kwargs) -> InLineSwin:
    """InLine-Swin-Small: 49.8 M parameters, 8.7 GMACs at 224."""
    return _create(InLineSwin, "inline_swin_small", pretrained, kwargs)


@register_model
def inline_swin_base(pretrained: bool = False, **kwargs) -> InLineSwin:
    """InLine-Swin-Base: 88.4 M parameters, 15.4 GMACs at 224."""
    return _create(InLineSwin, "inline_swin_base", pretrained, kwargs)


@register_model
def inline_swin_base_384(pretrained: bool = False, **kwargs) -> InLineSwin:
    """InLine-Swin-Base with softmax windows of 12: 88.5 M parameters, 46.2 GMACs at 384."""
    return _create(InLineSwin, "inline_swin_base_384", pretrained, kwargs)


@register_model
def inline_cswin_tiny(pretrained: bool = False, **kwargs) -> InLineCSwin:
    """InLine-CSwin-Tiny: 20.6 M parameters, 4.3 GMACs at 224."""
    return _create(InLineCSwin, "inline_cswin_tiny", pretrained, kwargs)


@register_model
def inline_cswin_small(pretrained: bool = False, **kwargs) -> InLineCSwin:
    """InLine-CSwin-Small: 33.0 M parameters, 6.8 GMACs at 224."""
    return _create(InLineCSwin, "inline_cswin_small", pretrained, kwargs)


@register_model
def inline_cswin_base(pretrained: bool = False, **kwargs) -> InLineCSwin:
    """InLine-CSwin-Base: 73.4 M parameters, 14.9 GMACs at 224."""
    return _create(InLineCSwin, "inline_cswin_base", pretrained, kwargs)


@register_model
def inline_cswin_base_384(pretrained: bool = False, **kwargs) -> InLineCSwin:
    """InLine-CSwin-Base with softmax stripes of 12: 73.4 M parameters, 46.2 GMACs at 384."""
    return _create(InLineCSwin, "inline_cswin_base_384", pretrained, kwargs)
