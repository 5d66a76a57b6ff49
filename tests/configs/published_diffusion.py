"""What the authors of LinFusion, CLEAR and LiT set, by recipe; None where they state nothing."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Row:
    """Args:
    batch: (GPUs, pictures a GPU and step, accumulated steps).
    options: of the method.
    weights: of the objective's terms beside the task's.
    """

    kind: str  # of the tiny stand-in
    method: str
    options: dict
    weights: dict
    side: int
    resize: str
    batch: tuple[int, int, int]
    updates: int
    opt: str = "adamw"
    lr: float = 1e-4
    decay: float = 0.0
    clip: float | None = None
    ema: float | None = None
    precision: str = "no"
    hflip: bool = False
    stand_in: dict = field(default_factory=dict)


SWAP = {"output": 0.5, "feature": 0.5, "variance": None}
LIT = {"output": 0.5, "feature": None, "variance": 0.05}


def linfusion(kind, side, resize, batch, precision, **more):
    return Row(
        kind=kind, method="linfusion", options={}, weights=SWAP, side=side, resize=resize, batch=batch,
        updates=100_000, precision=precision, **more,
    )  # fmt: skip


def clear(kind="flux", **options):
    return Row(
        kind=kind, method="clear", options=options, weights=SWAP, side=1024, resize="crop", batch=(4, 2, 4),
        updates=10_000, opt="prodigy", lr=1.0, decay=1e-4, clip=1.0, precision="bf16",
    )  # fmt: skip


def lit(heads, updates, stand_in=None, **more):
    options = {"heads": heads, "kernel_size": 5, "inherit": "none"}
    words = dict(kind="dit", side=256, resize="halve-crop", batch=(8, 32, 1), hflip=True) | more
    return Row(
        method="lit", options=options, weights=LIT, updates=updates, ema=0.9999, stand_in=stand_in or {},
        **words,
    )  # fmt: skip


ROWS = {
    "linfusion_sd15": linfusion("sd", 512, "squash", (8, 6, 2), "fp16"),
    "linfusion_sd21": linfusion("sd", 768, "squash", (8, 6, 2), "bf16"),
    "linfusion_sdxl": linfusion("sdxl", 1024, "crop", (8, 2, 4), "fp16"),
    "clear_flux_r8": clear(radius=8),
    "clear_flux_r16": clear(radius=16),
    "clear_flux_r32": clear(radius=32),
    "clear_flux_r8_down4": clear(radius=8, down_factor=4),
    "clear_flux_r16_down4": clear(radius=16, down_factor=4),
    "clear_flux_r16_pooled": clear(radius=16, pooled_tokens=[32, 32]),
    "clear_sd3": clear("sd3", radius=16),
    "lit_dit_s2": lit(2, 400_000),
    "lit_dit_b2": lit(3, 400_000, {"attention_head_dim": 6}),  # 3 must divide the width
    "lit_dit_l2": lit(4, 400_000),
    "lit_dit_xl2": lit(4, 1_400_000),
    "lit_pixart_sigma": lit(
        4, 50_000, kind="pixart_sigma", side=1024, resize="crop", batch=(8, 4, 4), hflip=False,
        precision="bf16",
    ),
}  # fmt: skip
