"""RAVLT, vision transformers of rank-augmented linear attention (RALA), arXiv 2411.07635."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from ..pyramid import Pyramid
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .mixer import RankAugmentedMixer
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "RankAugmentedMixer",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "ravlt_base",
    "ravlt_large",
    "ravlt_small",
    "ravlt_tiny",
    "to_official",
]

_FAMILY = {"linear_mixer": "rala"}


def _cfg(letter: str, **fields) -> dict:
    return pretrained_cfg(
        hf_hub_id="aldjalkdf/RAVLT",
        hf_hub_filename=f"RAVLT_{letter}.pth",
        license="mit",
        origin_url="https://github.com/qhfan/RALA",
        paper_name="Breaking the Low-Rank Dilemma of Linear Attention",
        paper_ids="arXiv:2411.07635",
        **fields,
    )


default_cfgs = generate_default_cfgs(
    {
        "ravlt_tiny.in1k": _cfg("T"),
        "ravlt_small.in1k": _cfg("S", notes=("ImageNet-1k top-1 84.4 (authors' README)",)),
        "ravlt_base.in1k": _cfg("B"),
        "ravlt_large.in1k": _cfg("L"),
    }
)


def _create(name: str, pretrained: bool, given: dict) -> Pyramid:
    fixed = {**VARIANTS[name].kwargs(), **_FAMILY}
    return build(Pyramid, name, pretrained, OFFICIAL, fixed, given)


@register_model
def ravlt_tiny(pretrained: bool = False, **kwargs) -> Pyramid:
    """RAVLT, tiny; keyword arguments as for ``Pyramid``."""
    return _create("ravlt_tiny", pretrained, kwargs)


@register_model
def ravlt_small(pretrained: bool = False, **kwargs) -> Pyramid:
    """RAVLT, small; keyword arguments as for ``Pyramid``."""
    return _create("ravlt_small", pretrained, kwargs)


@register_model
def ravlt_base(pretrained: bool = False, **kwargs) -> Pyramid:
    """RAVLT, base; keyword arguments as for ``Pyramid``."""
    return _create("ravlt_base", pretrained, kwargs)


@register_model
def ravlt_large(pretrained: bool = False, **kwargs) -> Pyramid:
    """RAVLT, large; keyword arguments as for ``Pyramid``."""
    return _create("ravlt_large", pretrained, kwargs)
