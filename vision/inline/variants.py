"""Sizes of InLine, arXiv 2412.06590, in its four forms. Heads are 32 wide, in CSwin-Base 24."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Keyword arguments of a form's model that differ between its sizes."""

    drop_path_rate: float  # of the last block, when training from scratch

    def kwargs(self) -> dict:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeiTVariant(Variant):
    img_size: int  # pixels that the position table is for
    embed_dim: int
    num_heads: int
    depth: int = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PVTVariant(Variant):
    depths: tuple[int, ...]  # blocks of each stage
    dims: tuple[int, ...] = (64, 128, 320, 512)  # channels of each stage
    heads: tuple[int, ...] = (2, 4, 10, 16)  # of each stage
    ffn_ratios: tuple[float, ...] = (8, 8, 4, 4)  # hidden width over dims, of each stage


@dataclass(frozen=True, kw_only=True, slots=True)
class SwinVariant(Variant):
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mixers: tuple[str, ...]
    window_size: int = 7  # tokens a side of the softmax windows


@dataclass(frozen=True, kw_only=True, slots=True)
class CSwinVariant(Variant):
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    split_sizes: tuple[int, ...] = (1, 2, 7, 7)  # tokens that a softmax stripe is wide


_SWIN_NARROW = {"dims": (96, 192, 384, 768), "heads": (3, 6, 12, 24)}
_SWIN_BASE = {
    "dims": (128, 256, 512, 1024),
    "heads": (4, 8, 16, 32),
    "depths": (2, 2, 18, 2),
    "mixers": ("inline", "inline", "inline_first_2", "window"),
    "drop_path_rate": 0.5,
}
_CSWIN_NARROW = {"dims": (64, 128, 256, 512), "heads": (2, 4, 8, 16)}
_CSWIN_BASE = {"dims": (96, 192, 384, 768), "heads": (4, 8, 16, 32), "depths": (3, 6, 29, 2)}
_AT_384 = {"split_sizes": (1, 2, 12, 12)}

VARIANTS: dict[str, Variant] = {
    "inline_deit_tiny": DeiTVariant(img_size=224, embed_dim=192, num_heads=6, drop_path_rate=0.1),
    "inline_deit_small": DeiTVariant(img_size=288, embed_dim=320, num_heads=10, drop_path_rate=0.1),
    "inline_deit_base": DeiTVariant(img_size=448, embed_dim=384, num_heads=12, drop_path_rate=0.1),
    "inline_pvt_tiny": PVTVariant(depths=(2, 2, 2, 2), drop_path_rate=0.1),
    "inline_pvt_small": PVTVariant(depths=(3, 4, 6, 3), drop_path_rate=0.1),
    "inline_pvt_medium": PVTVariant(depths=(3, 4, 18, 3), drop_path_rate=0.3),
    "inline_pvt_large": PVTVariant(depths=(3, 8, 27, 3), drop_path_rate=0.3),
    "inline_swin_tiny": SwinVariant(
        **_SWIN_NARROW,
        depths=(2, 2, 6, 2),
        mixers=("inline", "inline", "inline", "window"),
        drop_path_rate=0.2,
    ),
    "inline_swin_small": SwinVariant(
        **_SWIN_NARROW,
        depths=(2, 2, 18, 2),
        mixers=("inline", "inline", "window", "window"),
        drop_path_rate=0.3,
    ),
    "inline_swin_base": SwinVariant(**_SWIN_BASE),
    "inline_swin_base_384": SwinVariant(**_SWIN_BASE, window_size=12),
    "inline_cswin_tiny": CSwinVariant(**_CSWIN_NARROW, depths=(2, 4, 18, 1), drop_path_rate=0.2),
    "inline_cswin_small": CSwinVariant(**_CSWIN_NARROW, depths=(3, 6, 29, 2), drop_path_rate=0.4),
    "inline_cswin_base": CSwinVariant(**_CSWIN_BASE, drop_path_rate=0.5),
    "inline_cswin_base_384": CSwinVariant(**_CSWIN_BASE, **_AT_384, drop_path_rate=0.7),
}
