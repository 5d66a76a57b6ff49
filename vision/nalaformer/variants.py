"""Sizes of NaLaFormer, arXiv 2506.21137."""

from ..variant import Variant

VARIANTS: dict[str, Variant] = {
    "nalaformer_xt": Variant(
        dims=(32, 64, 128, 384), depths=(2, 2, 2, 2), heads=(1, 2, 4, 12), drop_path_rate=0.1
    ),
    "nalaformer_tiny": Variant(
        dims=(64, 128, 256, 512), depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), drop_path_rate=0.1, ffn_ratio=4
    ),
    "nalaformer_small": Variant(
        dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), heads=(1, 2, 5, 8), drop_path_rate=0.15
    ),
    "nalaformer_base": Variant(
        dims=(96, 192, 384, 512),
        depths=(4, 6, 12, 6),
        heads=(1, 2, 6, 8),
        drop_path_rate=0.4,
        ffn_ratio=4,
        layer_scale=(1.0, 1.0, 1e-6, 1e-6),
    ),
    "nalaformer_large": Variant(
        dims=(96, 192, 448, 640),
        depths=(4, 7, 19, 8),
        heads=(1, 2, 7, 10),
        drop_path_rate=0.55,
        layer_scale=(1e-6, 1e-6, 1e-6, 1e-6),
    ),
}
