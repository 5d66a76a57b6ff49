"""MALA (MAViT in the paper), vision transformers of magnitude-aware linear attention, arXiv 2507.00698."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from ..pyramid import Pyramid
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .mixer import MagnitudeAwareMixer
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "MagnitudeAwareMixer",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "mala_base",
    "mala_large",
    "mala_small",
    "mala_tiny",
    "to_official",
]

_FAMILY = {"linear_mixer": "mala"}


def _cfg(**fields) -> dict:
    return pretrained_cfg(  # the authors name no weight file and no licence
        origin_url="https://github.com/qhfan/MALA",
        paper_name="Rectifying Magnitude Neglect in Linear Attention",
        paper_ids="arXiv:2507.00698",
        **fields,
    )


default_cfgs = generate_default_cfgs(
    {
        "mala_tiny": _cfg(),
        "mala_small": _cfg(notes=("ImageNet-1k top-1 84.7 (abstract of the paper)",)),
        "mala_base": _cfg(),
        "mala_large": _cfg(),
    }
)


def _create(name: str, pretrained: bool, given: dict) -> Pyramid:
    fixed = {**VARIANTS[name].kwargs(), **_FAMILY}
    return build(Pyramid, name, pretrained, OFFICIAL, fixed, given)


@register_model
def mala_tiny(pretrained: bool = False, **kwargs) -> Pyramid:
    """MALA, tiny; keyword arguments as for ``Pyramid``."""
    return _create("mala_tiny", pretrained, kwargs)


@register_model
def mala_small(pretrained: bool = False, **kwargs) -> Pyramid:
    """MALA, small; keyword arguments as for ``Pyramid``."""
    return _create("mala_small", pretrained, kwargs)


@register_model
def mala_base(pretrained: bool = False, **kwargs) -> Pyramid:
    """MALA, base; keyword arguments as for ``Pyramid``."""
    return _create("mala_base", pretrained, kwargs)


@register_model
def mala_large(pretrained: bool = False, **kwargs) -> Pyramid:
    """MALA, large; keyword arguments as for ``Pyramid``."""
    return _create("mala_large", pretrained, kwargs)
