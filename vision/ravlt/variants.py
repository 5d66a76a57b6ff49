"""Sizes of RAVLT, arXiv 2411.07635."""

from ..variant import Variant

VARIANTS: dict[str, Variant] = {
    "ravlt_tiny": Variant(
        dims=(64, 128, 256, 512), depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), drop_path_rate=0.1
    ),
    "ravlt_small": Variant(
        dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), heads=(1, 2, 5, 8), drop_path_rate=0.15
    ),
    "ravlt_base": Variant(
        dims=(96, 192, 384, 512),
        depths=(4, 6, 12, 6),
        heads=(1, 2, 6, 8),
        drop_path_rate=0.4,
        layer_scale=(1.0, 1.0, 1e-6, 1e-6),
    ),
    "ravlt_large": Variant(
        dims=(96, 192, 448, 640),
        depths=(4, 7, 19, 8),
        heads=(1, 2, 7, 10),
        drop_path_rate=0.55,
        layer_scale=(1e-6, 1e-6, 1e-6, 1e-6),
    ),
}
