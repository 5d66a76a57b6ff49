"""LightNet, one order-free pass over the tokens of a grid, arXiv 2405.21022."""

from timm.models import generate_default_cfgs, register_model

from ..build import build, pretrained_cfg
from .convert import OFFICIAL, checkpoint_filter_fn, from_official, to_official
from .mixer import LightNetAttention
from .model import LightNet
from .tpe import MdTpe
from .variants import VARIANTS

__all__ = [
    "OFFICIAL",
    "VARIANTS",
    "LightNet",
    "LightNetAttention",
    "MdTpe",
    "checkpoint_filter_fn",
    "default_cfgs",
    "from_official",
    "to_official",
]


def _cfg() -> dict:
    return pretrained_cfg(
        pool_size=None,
        first_conv="patch_embed.proj",
        origin_url="https://github.com/fla-org/flash-linear-attention",
        paper_name="You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
        paper_ids="arXiv:2405.21022",
    )


default_cfgs = generate_default_cfgs({name: _cfg() for name in VARIANTS})


def _create(name: str, pretrained: bool, given: dict) -> LightNet:
    fixed = VARIANTS[name].kwargs()
    return build(LightNet, name, pretrained, OFFICIAL, fixed, given)


@register_model
def lightnet_tiny(pretrained: bool = False, **kwargs) -> LightNet:
    """LightNet of width 192: 6.0 M parameters. Sizes are our choice, no weights are published."""
    return _create("lightnet_tiny", pretrained, kwargs)


@register_model
def lightnet_small(pretrained: bool = False, **kwargs) -> LightNet:
    """LightNet of width 384: 22.8 M parameters. Sizes are our choice, no weights are published."""
    return _create("lightnet_small", pretrained, kwargs)


@register_model
def lightnet_base(pretrained: bool = False, **kwargs) -> LightNet:
    """LightNet of width 768: 88.7 M parameters. Sizes are our choice, no weights are published."""
    return _create("lightnet_base", pretrained, kwargs)
