"""Sizes of L2ViT, arXiv 2501.16182. Head width is 32 and the feed-forward ratio 4 throughout."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Keyword arguments of ``L2ViT`` that differ between the sizes."""

    dims: tuple[int, ...]  # channels of each stage
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]  # of each stage; divide dims
    window_size: int = 7  # tokens a side

    def kwargs(self) -> dict:
        return asdict(self)


VARIANTS: dict[str, Variant] = {
    "l2vit_tiny": Variant(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "l2vit_small": Variant(dims=(96, 192, 384, 768), depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "l2vit_base": Variant(dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "l2vit_base_384": Variant(
        dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window_size=12
    ),
}
