"""Numbers of cells beyond 32 bits, which the authors count in: grids times batch by Python's integers."""

import pytest
import torch

from linzoo.pointcloud.lion.generation import most_active
from linzoo.pointcloud.lion.merge import coarse_cells
from linzoo.pointcloud.scatterformer.pillar_pool import columns
from linzoo.pointcloud.voxelize import voxelize
from linzoo.pointcloud.voxels import VoxelGrid, Voxels
from linzoo.pointcloud.windows import window_ids, window_keys, window_order, windows_along

SHAPE, BATCH, WINDOW = (40, 4000, 5000), 60, (40, 13, 13)
SIZE = (BATCH, *SHAPE)


@pytest.fixture
def voxels():
    """Cells from everywhere: sorted by numbers that have wrapped round, they would be in another order."""
    coords = torch.stack([torch.randint(size, (300,)) for size in SIZE], 1).unique(dim=0)
    coords = coords[torch.randperm(len(coords))]
    return Voxels(features=torch.rand(len(coords), 1), coords=coords, shape=SHAPE, batch_size=BATCH)


def number(places, sizes):
    """Places as one number, the last changing fastest; Python's integers have no end."""
    total = 0
    for place, size in zip(places, sizes, strict=True):
        assert 0 <= place < size
        total = total * size + place
    return total


def test_cells_are_numbered_without_overflow(voxels):
    wanted = [number(row, SIZE) for row in voxels.coords.tolist()]
    assert voxels.keys().tolist() == wanted and max(wanted) > 2**35


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_numbered_without_overflow(voxels, shifted):
    window = (1, 2, 2)
    along, moves = windows_along(SHAPE, window, shifted=shifted), [w // 2 * shifted for w in window]
    wanted = []
    for b, *cell in voxels.coords.tolist():
        at = [(c + s) // w for c, s, w in zip(cell, moves, window, strict=True)]
        wanted.append(number((b, *at), (BATCH, *along)))
    assert window_ids(voxels.coords, SHAPE, window, shifted=shifted).tolist() == wanted
    assert max(wanted) > 2**32


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("shifted", [False, True])
def test_orders_by_window_are_numbered_without_overflow(voxels, axis, shifted):
    slow_first = (2, 1, 0) if axis == "x" else (1, 2, 0)  # of (z, y, x)
    along = windows_along(SHAPE, WINDOW, shifted=shifted)
    wanted = []
    for b, *cell in voxels.coords.tolist():
        moved = [c + w // 2 * shifted for c, w in zip(cell, WINDOW, strict=True)]
        at = [moved[i] // WINDOW[i] for i in slow_first]
        inside = [moved[i] % WINDOW[i] for i in slow_first]
        sizes = [along[i] for i in slow_first], [WINDOW[i] for i in slow_first]
        wanted.append(number((b, *at, *inside), (BATCH, *sizes[0], *sizes[1])))
    words = {"axis": axis, "shifted": shifted}
    assert window_keys(voxels.coords, SHAPE, WINDOW, **words).tolist() == wanted and max(wanted) > 2**35
    order = window_order(voxels, WINDOW, **words).tolist()
    assert order == sorted(range(len(wanted)), key=wanted.__getitem__)


def test_merged_cells_and_columns_come_in_their_order(voxels):
    rows = voxels.coords.tolist()
    halves = {(b, z // 2, y // 2, x // 2) for b, z, y, x in rows}
    merged = coarse_cells(voxels.coords, SHAPE, (2, 2, 2))
    wanted = sorted(halves, key=lambda row: (row[0], row[3], row[2], row[1]))
    assert merged.coords.tolist() == [list(row) for row in wanted]
    assert merged.coords[merged.parent].tolist() == [[b, z // 2, y // 2, x // 2] for b, z, y, x in rows]
    order, _, _, pillars = columns(voxels)
    assert pillars.tolist() == [[b, 0, y, x] for b, y, x in sorted({(b, y, x) for b, _, y, x in rows})]
    wanted = sorted(range(len(rows)), key=lambda i: (rows[i][0], *rows[i][2:], rows[i][1]))
    assert order.tolist() == wanted


def test_equally_active_voxels_are_taken_in_the_order_of_their_cells(voxels):
    alike = voxels.with_features(torch.ones(len(voxels), 1))
    chosen = voxels.coords[most_active(alike, 0.5)].tolist()
    wanted = []
    for b in range(BATCH):
        own = sorted(row for row in voxels.coords.tolist() if row[0] == b)
        wanted += own[: len(own) // 2]
    assert chosen == wanted


def test_points_from_everywhere_lie_in_their_cells():
    high = (float(SHAPE[2]), float(SHAPE[1]), float(SHAPE[0]))
    grid = VoxelGrid(point_range=(0.0, 0.0, 0.0, *high), voxel_size=(1.0, 1.0, 1.0))
    frames = [torch.rand(20, 3, dtype=torch.float64) * torch.tensor(high) for _ in range(12)]
    cells = {(b, *map(int, point)) for b, frame in enumerate(frames) for point in frame.tolist()}
    found = voxelize(frames, grid).coords[:, [0, 3, 2, 1]]  # sorted by sample, x, y, z
    assert found.tolist() == [list(cell) for cell in sorted(cells)]
    assert 12 * SHAPE[0] * SHAPE[1] * SHAPE[2] > 2**32
