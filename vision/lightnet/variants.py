"""Sizes of LightNet's image models: our choice, see the card; no configuration is published."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Keyword arguments of ``LightNet`` that differ between the sizes."""

    embed_dim: int  # channels
    num_heads: int  # divides embed_dim
    depth: int = 12  # blocks

    def kwargs(self) -> dict:
        return asdict(self)


VARIANTS: dict[str, Variant] = {
    "lightnet_tiny": Variant(embed_dim=192, num_heads=3),
    "lightnet_small": Variant(embed_dim=384, num_heads=6),
    "lightnet_base": Variant(embed_dim=768, num_heads=12),
}
