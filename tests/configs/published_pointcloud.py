"""What the authors of LION and ScatterFormer set, by recipe: training flags and figures."""

from dataclasses import dataclass

NUSCENES_PASTE = {
    "car": 2, "truck": 3, "construction_vehicle": 7, "bus": 4, "trailer": 6, "barrier": 2, "motorcycle": 6,
    "bicycle": 6, "pedestrian": 2, "traffic_cone": 2,
}  # fmt: skip
LION = "NeurIPS 2024, arXiv 2407.18232"
SCATTERFORMER = "ECCV 2024, arXiv 2401.00912"
WAYMO_FIGURE, NUSCENES_FIGURE = "validation L2 mAP / mAPH", "validation NDS / mAP"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Args:
    source: of the published figure.  figure: what it is, and its values.
    batch: frames a GPU, of eight.  cycle: (share that rises, highest over first rate).
    late: last epochs (without pasting, without augmentation).
    paste: our choice; no source gives counts.
    """

    source: str
    figure: str
    dataset: str | None
    epochs: int
    lr: float
    decay: float
    cycle: tuple[float, float]
    clip: float
    batch: int
    paste: dict
    late: tuple[int, int] = (0, 0)
    flip: tuple[str, ...] = ("x", "y")
    scale: tuple[float, float] = (0.95, 1.05)
    translate: float = 0.5
    sweeps: int = 1
    balanced: bool = False


def waymo(figure, source=LION, **more):
    settings = {"epochs": 24, "lr": 0.003, "batch": 2, "late": (0, 1)} | more
    return Row(
        source=source, figure=f"{WAYMO_FIGURE} {figure}", dataset="waymo", decay=0.05, cycle=(0.1, 100),
        clip=10, paste={"Vehicle": 15, "Pedestrian": 10, "Cyclist": 10}, **settings,
    )  # fmt: skip


def nuscenes(figure, source=LION, **more):
    settings = {"epochs": 36, "lr": 0.003, "decay": 0.05, "clip": 35, "batch": 2, "late": (4, 0)} | more
    return Row(
        source=source, figure=f"{NUSCENES_FIGURE} {figure}", dataset="nuscenes", cycle=(0.4, 10),
        paste=NUSCENES_PASTE, scale=(0.9, 1.1), sweeps=10, **settings,
    )  # fmt: skip


def once(figure):
    return Row(
        source=LION, figure=f"mAP {figure}", dataset=None, epochs=80, lr=0.003, decay=0.01, cycle=(0.4, 10),
        clip=35, batch=4, paste={"Car": 1, "Bus": 4, "Truck": 3, "Pedestrian": 2, "Cyclist": 2},
    )  # fmt: skip


def kitti(figure):
    return Row(
        source=LION, figure=f"moderate AP car / pedestrian / cyclist {figure}", dataset="kitti", epochs=80,
        lr=0.003, decay=0.01, cycle=(0.4, 10), clip=10, batch=4, flip=("x",), translate=0.0,
        paste={"Car": 15, "Pedestrian": 10, "Cyclist": 10},
    )  # fmt: skip


ROWS = {
    "lion_retnet_waymo": waymo("74.6 / 72.7"),
    "lion_rwkv_waymo": waymo("74.7 / 72.8"),
    "lion_mamba_waymo": waymo("75.1 / 73.2"),
    "lion_mamba_waymo_large": waymo("75.9 / 74.0"),
    "lion_retnet_nuscenes": nuscenes("71.9 / 67.3"),
    "lion_rwkv_nuscenes": nuscenes("71.7 / 66.8"),
    "lion_mamba_nuscenes": nuscenes("72.1 / 68.0; 72.3 / 68.2 with 48 epochs"),
    "lion_retnet_once": once("66.3"),
    "lion_rwkv_once": once("65.8"),
    "lion_mamba_once": once("66.6"),
    "lion_retnet_kitti": kitti("77.9 / 60.2 / 69.6"),
    "lion_mamba_kitti": kitti("78.3 / 60.2 / 68.6"),
    "lion_rwkv_kitti": kitti("78.3 / 62.2 / 71.2"),
    "lion_mlstm_kitti": kitti("77.9 / 59.3 / 67.4"),
    "lion_ttt_kitti": kitti("78.0 / 58.6 / 69.6"),
    "scatterformer_waymo": waymo("75.7 / 73.8", SCATTERFORMER, lr=0.006, batch=4, late=(4, 0)),
    "scatterformer_nuscenes": nuscenes(
        "72.4 / 68.3", SCATTERFORMER, epochs=20, lr=0.006, decay=0.03, clip=10, batch=4, late=(3, 0),
        balanced=True,
    ),
}  # fmt: skip
