"""Sizes of MALA (MAViT in the paper), arXiv 2507.00698."""

from ..variant import Variant

VARIANTS: dict[str, Variant] = {
    "mala_tiny": Variant(
        dims=(64, 128, 256, 512), depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), drop_path_rate=0.1, neck_dim=2048
    ),
    "mala_small": Variant(
        dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), heads=(1, 2, 5, 8), drop_path_rate=0.15, neck_dim=2048
    ),
    "mala_base": Variant(
        dims=(96, 192, 384, 512),
        depths=(4, 6, 12, 6),
        heads=(1, 2, 6, 8),
        drop_path_rate=0.4,
        neck_dim=2048,
        layer_scale=(1.0, 1.0, 1e-6, 1e-6),
    ),
    "mala_large": Variant(
        dims=(96, 192, 448, 640),
        depths=(4, 7, 19, 8),
        heads=(1, 2, 7, 10),
        drop_path_rate=0.55,
        neck_dim=2560,
        layer_scale=(1e-6, 1e-6, 1e-6, 1e-6),
    ),
}
