"""NaLaFormer, vision transformers of norm-aware linear attention, arXiv 2506.21137."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from ..pyramid import Pyramid
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .mixer import NormAwareMixer
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "NormAwareMixer",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "nalaformer_base",
    "nalaformer_large",
    "nalaformer_small",
    "nalaformer_tiny",
    "nalaformer_xt",
    "to_official",
]

_FAMILY = {
    "linear_mixer": "nala",
    "softmax_mixer": "nala_softmax",
    "second_pos": True,
    "linear_init": "default",
}


def _cfg(top1: str) -> dict:
    return pretrained_cfg(  # no weights are published
        license="mit",
        origin_url="https://github.com/ZacharyMeng/NaLaFormer",
        paper_name="NaLaFormer: Norm-Aware Linear Attention for Transformer Models",
        paper_ids="arXiv:2506.21137",
        notes=(f"ImageNet-1k top-1 {top1} (authors' README)",),
    )


default_cfgs = generate_default_cfgs(
    {
        "nalaformer_xt": _cfg("79.1, for a model of 8M parameters, which the code does not give"),
        "nalaformer_tiny": _cfg("82.6"),
        "nalaformer_small": _cfg("84.3"),
        "nalaformer_base": _cfg("85.2"),
        "nalaformer_large": _cfg("85.7"),
    }
)


def _create(name: str, pretrained: bool, given: dict) -> Pyramid:
    fixed = {**VARIANTS[name].kwargs(), **_FAMILY}
    return build(Pyramid, name, pretrained, OFFICIAL, fixed, given)


@register_model
def nalaformer_xt(pretrained: bool = False, **kwargs) -> Pyramid:
    """NaLaFormer, extra tiny; keyword arguments as for ``Pyramid``."""
    return _create("nalaformer_xt", pretrained, kwargs)


@register_model
def nalaformer_tiny(pretrained: bool = False, **kwargs) -> Pyramid:
    """NaLaFormer, tiny; keyword arguments as for ``Pyramid``."""
    return _create("nalaformer_tiny", pretrained, kwargs)


@register_model
def nalaformer_small(pretrained: bool = False, **kwargs) -> Pyramid:
    """NaLaFormer, small; keyword arguments as for ``Pyramid``."""
    return _create("nalaformer_small", pretrained, kwargs)


@register_model
def nalaformer_base(pretrained: bool = False, **kwargs) -> Pyramid:
    """NaLaFormer, base; keyword arguments as for ``Pyramid``."""
    return _create("nalaformer_base", pretrained, kwargs)


@register_model
def nalaformer_large(pretrained: bool = False, **kwargs) -> Pyramid:
    """NaLaFormer, large; keyword arguments as for ``Pyramid``."""
    return _create("nalaformer_large", pretrained, kwargs)
