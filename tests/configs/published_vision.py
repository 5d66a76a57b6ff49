"""What the authors' scripts amount to, written down once more, by hand: the vision recipes are held to it.

A row: images an update, highest, lowest and first learning rate, epochs, those of warm-up, weight decay,
gradient clipping, drop path, the average's decay an update (None: no average), copies of a picture (repeated
augmentation), autocast.
"""

from typing import NamedTuple


class Row(NamedTuple):
    batch: int
    lr: float
    min_lr: float
    first_lr: float
    epochs: int
    warmup: int
    decay: float
    clip: float | None
    drop_path: float
    ema: float | None
    repeats: int
    autocast: str | None


def pyramid(drop_path: float, autocast: str | None = "float16") -> Row:
    return Row(1024, 1e-3, 1e-5, 1e-6, 300, 5, 0.05, None, drop_path, 0.99996**2, 3, autocast)


def l2vit(drop_path: float) -> Row:
    return Row(4096, 4e-3, 1e-6, 0.0, 300, 20, 0.05, None, drop_path, 0.9999, 0, None)


def inline(
    drop_path: float, clip: float | None, warmup: int = 20, low: float = 1e-5, decay: float = 0.05,
    ema: float | None = None,
) -> Row:  # fmt: skip
    return Row(1024, 1e-3, low, 1e-6, 300, warmup, decay, clip, drop_path, ema, 0, "float16")


def lightnet(batch: int = 1024, warmup: int = 20, decay: float = 0.05) -> Row:
    return Row(batch, 7.5e-4, 1e-5, 1e-6, 300, warmup, decay, 5.0, 0.1, None, 0, "bfloat16")


FROM_22K = Row(1024, 4e-5, 4e-7, 4e-8, 30, 5, 1e-8, None, 0.2, 0.9999, 0, None)
CSWIN_EMA = 0.9996**0.25

ROWS = {
    "ravlt_tiny": pyramid(0.1),
    "ravlt_small": pyramid(0.15),
    "ravlt_base": pyramid(0.4),
    "ravlt_large": pyramid(0.55),
    "mala_tiny": pyramid(0.1),
    "mala_small": pyramid(0.15),
    "mala_base": pyramid(0.4),
    "mala_large": pyramid(0.55),
    "nalaformer_xt": pyramid(0.1, None),
    "nalaformer_tiny": pyramid(0.1, None),
    "nalaformer_small": pyramid(0.15, None),
    "nalaformer_base": pyramid(0.4, None),
    "nalaformer_large": pyramid(0.55, None),
    "l2vit_tiny": l2vit(0.1),  # drop path: ours
    "l2vit_small": l2vit(0.2),  # drop path: ours
    "l2vit_base": l2vit(0.3),
    "l2vit_base_in22k": Row(1024, 1e-3, 1e-5, 1e-6, 90, 5, 0.05, None, 0.2, None, 0, None),
    "l2vit_base_ft": FROM_22K,
    "l2vit_base_384": FROM_22K,
    "inline_deit_tiny": inline(0.1, 5.0),
    "inline_deit_small": inline(0.1, 5.0),
    "inline_deit_base": inline(0.1, 5.0),
    "inline_pvt_tiny": inline(0.1, None, warmup=5, low=2e-5),
    "inline_pvt_small": inline(0.1, None, warmup=5, low=2e-5),
    "inline_pvt_medium": inline(0.3, 1.0, warmup=5, low=2e-5),
    "inline_pvt_large": inline(0.3, 1.0, warmup=5, low=2e-5),
    "inline_swin_tiny": inline(0.2, 5.0),
    "inline_swin_small": inline(0.3, 5.0),
    "inline_swin_base": inline(0.5, 5.0),
    "inline_swin_base_384": Row(512, 2e-5, 2e-7, 2e-8, 30, 5, 1e-8, 5.0, 0.5, None, 0, "float16"),
    "inline_cswin_tiny": inline(0.2, None, low=2e-5, ema=CSWIN_EMA),
    "inline_cswin_small": inline(0.4, None, low=2e-5, ema=CSWIN_EMA),
    "inline_cswin_base": inline(0.5, None, low=2e-5, decay=0.1, ema=CSWIN_EMA),
    "inline_cswin_base_384": Row(512, 5e-6, 5e-8, 5e-9, 20, 5, 1e-8, None, 0.7, 0.9996**0.125, 0, "float16"),
    "lightnet_tiny": lightnet(),  # all of it ours
    "lightnet_small": lightnet(batch=2048, warmup=10, decay=0.1),
    "lightnet_base": lightnet(),
}
AUGMENTATION = {
    "aa": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "reprob": 0.25, "remode": "pixel", "mixup": 0.8,
    "cutmix": 1.0, "mixup_prob": 1.0, "mixup_switch_prob": 0.5, "smoothing": 0.1,
    "train_interpolation": "bicubic",
}  # fmt: skip
TOP1 = {
    "ravlt_small": 84.4, "mala_small": 84.7, "nalaformer_xt": 79.1, "nalaformer_tiny": 82.6,
    "nalaformer_small": 84.3, "nalaformer_base": 85.2, "nalaformer_large": 85.7, "l2vit_tiny": 83.1,
    "l2vit_small": 84.1, "l2vit_base": 84.4, "l2vit_base_ft": 86.0, "l2vit_base_384": 87.0,
    "inline_deit_tiny": 74.5, "inline_deit_small": 80.2, "inline_deit_base": 82.3, "inline_pvt_tiny": 78.2,
    "inline_pvt_small": 82.0, "inline_pvt_medium": 83.2, "inline_pvt_large": 83.6, "inline_swin_tiny": 82.4,
    "inline_swin_small": 83.6, "inline_swin_base": 84.1, "inline_cswin_tiny": 83.2,
    "inline_cswin_small": 83.8, "inline_cswin_base": 84.5,
}  # fmt: skip
