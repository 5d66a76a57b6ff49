"""What the authors' repositories set for COCO, written down once more, by hand: the configs are held to it.

A row: detector, schedule, family, then size -> (drop path, pictures a GPU, learning rate).
"""

from dataclasses import dataclass

DETECTORS = {"retinanet": "RetinaNet", "mask-rcnn": "MaskRCNN", "cascade-mask-rcnn": "CascadeRCNN"}
WIDTHS = {
    "ravlt": {
        "tiny": (64, 128, 256, 512),
        "small": (64, 128, 320, 512),
        "base": (96, 192, 384, 512),
        "large": (96, 192, 448, 640),
    },
    "l2vit": {
        "tiny": (96, 192, 384, 768),
        "small": (96, 192, 384, 768),
        "base": (128, 256, 512, 1024),
    },
}
WIDTHS["mala"] = WIDTHS["ravlt"]


@dataclass(frozen=True)
class Setting:
    """What one config must hold."""

    name: str
    detector: str
    family: str
    model: str
    epochs: int
    rate: float
    drop_path: float
    decay: float
    undecayed: str  # "", "norm but stem" or "norm"
    pictures: int
    crops: bool
    amp: float | str | None  # static loss scale, "dynamic", or None for float32
    out_norms: float | None
    widths: tuple[int, ...]  # of the maps that are used


def published_settings() -> list[Setting]:
    return [
        *(s for family, rate in (("ravlt", 1e-4), ("mala", 4e-4)) for s in of_rala_code(family, rate)),
        *of_l2vit(),
    ]


def of_rala_code(family: str, rate: float) -> list[Setting]:
    """RAVLT and MALA: the same repository layout, another rate."""
    found = []
    drop_path = {"tiny": 0.1, "small": 0.15, "base": 0.4, "large": 0.55}
    for detector, schedule, sizes in (
        ("retinanet", "1x", ("tiny", "small", "base", "large")),
        ("mask-rcnn", "1x", ("tiny", "small", "base", "large")),
        ("mask-rcnn", "3x", ("small", "base", "large")),
        ("cascade-mask-rcnn", "3x", ("small", "base", "large")),
    ):
        for size in sizes:
            long_and_large = schedule == "3x" and size == "large"
            one_picture = long_and_large and (detector == "mask-rcnn" or family == "mala")
            crops = "ms-crop-" if schedule == "3x" else ""
            head = "_4conv1fc-giou" if detector == "cascade-mask-rcnn" else ""
            found.append(
                Setting(
                    name=f"{detector}_{family}-{size}_fpn{head}_{crops}{schedule}_coco",
                    detector=detector,
                    family=family,
                    model=f"{family}_{size}",
                    epochs={"1x": 12, "3x": 36}[schedule],
                    rate=2e-4 if long_and_large and family == "mala" else rate,
                    drop_path=drop_path[size],
                    decay=1e-4 if detector == "retinanet" else 0.05,
                    undecayed={"retinanet": "", "mask-rcnn": "norm but stem"}.get(detector, "norm"),
                    pictures=1 if one_picture else 2,
                    crops=schedule == "3x",
                    amp=512.0 if detector == "retinanet" else "dynamic",
                    out_norms=1e-6,
                    widths=WIDTHS[family][size],
                )
            )
    return found


def of_l2vit() -> list[Setting]:
    found = []
    drop_path = {("1x", "base"): 0.2, ("3x", "tiny"): 0.2, ("3x", "small"): 0.2, ("3x", "base"): 0.3}
    for detector in ("retinanet", "mask-rcnn"):
        for schedule, epochs in (("1x", 12), ("3x", 36)):
            for size in ("tiny", "small", "base"):
                widths = WIDTHS["l2vit"][size]
                found.append(
                    Setting(
                        name=f"{detector}_l2vit-{size}_fpn_ms-crop-{schedule}_coco",
                        detector=detector,
                        family="l2vit",
                        model=f"l2vit_{size}",
                        epochs=epochs,
                        rate=1e-4,
                        drop_path=drop_path.get((schedule, size), 0.1),
                        decay=0.05,
                        undecayed="",
                        pictures=2,
                        crops=True,
                        amp=None,
                        out_norms=1e-5,
                        widths=widths[1:] if detector == "retinanet" else widths,
                    )
                )
    return found


def our_settings() -> list[Setting]:
    """Families for which nobody published detection settings."""
    found = []
    for detector in ("retinanet", "mask-rcnn"):
        for family, model, neck, drop_path, out_norms, widths in (
            ("nalaformer", "nalaformer_tiny", "fpn", 0.1, 1e-6, (64, 128, 256, 512)),
            ("inline", "inline_swin_tiny", "fpn", 0.2, 1e-5, (96, 192, 384, 768)),
            ("lightnet", "lightnet_tiny", "sfp", 0.1, None, (192,)),
            ("efficientvim", "efficientvim_m1", "sfp", 0.0, None, (128, 192, 320)),
        ):
            found.append(
                Setting(
                    name=f"{detector}_{model.replace('_', '-')}_{neck}_1x_coco",
                    detector=detector,
                    family=family,
                    model=model,
                    epochs=12,
                    rate=1e-4,
                    drop_path=drop_path,
                    decay=0.05,
                    undecayed="norm",
                    pictures=2,
                    crops=False,
                    amp=None,
                    out_norms=out_norms,
                    widths=widths[1:] if neck == "fpn" and detector == "retinanet" else widths,
                )
            )
    return found
