"""The published forms of LION as a table: grids, windows, groups and widths. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from ..voxels import VoxelGrid
from ..windows import Cells
from .generation import check_generation
from .grouping import Padding, check_group

BLOCKS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LionConfig:
    """Everything about a backbone but its weights. Windows are cells along (z, y, x).

    channels: width C of voxels and tokens.  operator: a name that ``make_operator`` knows.
    grid: the box of space and its cells (the backbone itself takes voxels of any grid).
    windows, groups: of each block, the windows by which voxels are sorted, and voxels of a sequence.
    out_window, out_group: of the layer after the blocks.  bev_windows, bev_groups: of further layers on one
    cell of height, none in most forms.
    generate_share, generate_ways: voxel generation, as ``Merge`` has it.
    drop_path: probability that a sequence leaves out an operator's branch while training.
    padding: "repeat" (published) or "none", as ``grouping.group`` has it.
    operator_words: what every operator takes besides (``heads``, ...).
    notes: what the form takes from elsewhere than the published description.
    """

    channels: int
    grid: VoxelGrid
    operator: str = "retnet"
    windows: tuple[Cells, ...] = ((32, 13, 13), (16, 13, 13), (8, 13, 13), (4, 13, 13))
    groups: tuple[int, ...] = (4096, 2048, 1024, 512)
    out_window: Cells = (2, 13, 13)
    out_group: int = 256
    bev_windows: tuple[Cells, ...] = ()
    bev_groups: tuple[int, ...] = ()
    generate_share: float = 0.2
    generate_ways: int = 4
    drop_path: float = 0.0
    padding: Padding = "repeat"
    operator_words: Mapping[str, object] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        for name, groups, count in (
            ("windows", self.groups, BLOCKS),
            ("bev_windows", self.bev_groups, len(self.bev_windows)),
        ):
            windows = getattr(self, name)
            if len(windows) != count or len(groups) != count:
                raise ValueError(
                    f"LionConfig: {name} must have {count} entries and as many group sizes, "
                    f"got {len(windows)} and {len(groups)}"
                )
        for group in (*self.groups, self.out_group, *self.bev_groups):
            check_group(group, self.padding)
        check_generation(self.generate_share, self.generate_ways)

    def build(self) -> nn.Module:
        from .backbone import LionBackbone  # which imports this file

        return LionBackbone(self)


WAYMO = VoxelGrid(point_range=(-75.52, -75.52, -2.0, 75.52, 75.52, 4.0), voxel_size=(0.32, 0.32, 0.1875))
NUSCENES = VoxelGrid(point_range=(-54.0, -54.0, -5.0, 54.0, 54.0, 3.0), voxel_size=(0.3, 0.3, 0.25))
ONCE = VoxelGrid(point_range=(-75.2, -75.2, -5.0, 75.2, 75.2, 3.0), voxel_size=(0.4, 0.4, 0.25))
KITTI = VoxelGrid(point_range=(0.0, -40.0, -3.0, 70.4, 40.0, 1.0), voxel_size=(0.2, 0.2, 0.125))
ARGOVERSE = VoxelGrid(point_range=(-204.8, -204.8, -3.2, 204.8, 204.8, 3.2), voxel_size=(0.4, 0.4, 0.2))

FORMS = {
    "waymo": LionConfig(channels=64, grid=WAYMO),
    "waymo_large": LionConfig(channels=128, grid=WAYMO),
    "nuscenes": LionConfig(channels=128, grid=NUSCENES),
    "once": LionConfig(channels=128, grid=ONCE),
    "kitti": LionConfig(channels=64, grid=KITTI),
    "argoverse": LionConfig(
        channels=128,
        grid=ARGOVERSE,
        bev_windows=((1, 25, 25), (1, 37, 37), (1, 51, 51)),
        bev_groups=(512, 1024, 2048),
        notes="grid, and the names of dow_out and linear_bev1..3 in official files: not known, ours",
    ),
}

OPERATORS: dict[str, dict[str, object]] = {  # those of the paper, with the words that the defaults miss
    "retnet": {},
    "mamba": {},
    "rwkv": {"heads": 4},  # at either width
    "mlstm": {},
    "ttt": {},
}

VARIANTS = {
    f"lion_{operator}_{form}": replace(config, operator=operator, operator_words=words)
    for form, config in FORMS.items()
    for operator, words in OPERATORS.items()
}

PUBLISHED = (  # variants that the paper reports results of; the others are built of the same parts
    *(f"lion_{operator}_waymo" for operator in ("retnet", "rwkv", "mamba")),
    "lion_mamba_waymo_large",
    *(
        f"lion_{operator}_{form}"
        for form in ("nuscenes", "argoverse", "once")
        for operator in ("retnet", "rwkv", "mamba")
    ),
    *(f"lion_{operator}_kitti" for operator in OPERATORS),
)
