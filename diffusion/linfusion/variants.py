"""The published LinFusion weights, and how a UNet's config tells which belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One repository of weights.

    Args:
        hub_id: "owner/name".
        mid_scale: width of a block over the hidden width of its MLPs.
    """

    hub_id: str
    mid_scale: int


# by the UNet's cross_attention_dim: a single-file checkpoint has no name, but every UNet has a config
BY_CONTEXT = {
    768: Published(hub_id="Yuanshi/LinFusion-1-5", mid_scale=1),
    1024: Published(hub_id="Yuanshi/LinFusion-2-1", mid_scale=1),
    2048: Published(hub_id="Yuanshi/LinFusion-XL", mid_scale=16),
}


def published_for(unet: nn.Module) -> Published | None:
    """The weights made for this UNet's family, None when there are none."""
    context = unet.config.cross_attention_dim
    widths = {context} if isinstance(context, int) else set(context)
    return BY_CONTEXT.get(widths.pop()) if len(widths) == 1 else None
