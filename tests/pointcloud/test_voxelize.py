"""Points to voxels: which cell, in which order, and what is refused."""

import math

import pytest
import torch

from linzoo.pointcloud.voxelize import voxelize
from linzoo.pointcloud.voxels import VoxelGrid

GRID = VoxelGrid(point_range=(0.0, -3.0, -1.0, 8.0, 3.0, 1.0), voxel_size=(0.5, 0.5, 0.25))  # 16 x 12 x 8


def frame(points: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    low, high = torch.tensor([-0.5, -3.5, -1.5]), torch.tensor([8.5, 3.5, 1.5])
    g = torch.Generator().manual_seed(seed)
    xyz = low + (high - low) * torch.rand(points, 3, generator=g)
    return torch.cat([xyz, torch.rand(points, 2, generator=g)], 1).to(dtype)


def by_loops(points, grid):
    """Cell -> its points, by the definition, one point at a time."""
    cells: dict[tuple, list] = {}
    for b, rows in enumerate(points):
        for p in rows:
            at = [
                math.floor(
                    ((p[i] - p.new_tensor(grid.point_range[i])) / p.new_tensor(grid.voxel_size[i])).item()
                )
                for i in range(3)
            ]
            if all(0 <= c < n for c, n in zip(at, reversed(grid.shape), strict=True)):
                cells.setdefault((b, *at), []).append(p)
    return cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_and_their_points_are_those_of_the_definition_in_the_order_b_x_y_z(dtype):
    points = [frame(150, dtype=dtype), frame(0, dtype=dtype), frame(90, 1, dtype)]
    got, want = voxelize(points, GRID), by_loops(points, GRID)
    cells = sorted(want)
    assert got.coords[:, [0, 3, 2, 1]].tolist() == [list(c) for c in cells]
    assert got.lengths.tolist() == [len(want[c]) for c in cells]
    assert got.voxel.tolist() == [i for i, c in enumerate(cells) for _ in want[c]]
    assert torch.equal(got.points, torch.stack([p for c in cells for p in want[c]]))
    assert got.batch_size == 3 and got.points.dtype == dtype and got.coords.dtype == torch.int64


def test_empty_frames_leave_no_rows_wherever_they_stand():
    full, none = frame(40), frame(0)
    alone = voxelize([full], GRID)
    batch = voxelize([none, full, none, none], GRID)
    assert batch.batch_size == 4 and set(batch.coords[:, 0].tolist()) == {1}
    assert torch.equal(batch.coords[:, 1:], alone.coords[:, 1:]) and torch.equal(batch.points, alone.points)
    nothing = voxelize([none, none], GRID)
    assert nothing.coords.shape == (0, 4) and nothing.points.shape == (0, 5) and len(nothing.lengths) == 0


def test_points_on_the_low_faces_are_inside_and_on_the_high_faces_outside():
    low, high = (
        torch.tensor([[0.0, -3.0, -1.0]]),
        torch.tensor([[8.0, 0.0, 0.0], [1.0, 3.0, 0.0], [1.0, 0.0, 1.0]]),
    )
    assert voxelize([low], GRID).coords.tolist() == [[0, 0, 0, 0]]
    assert len(voxelize([high], GRID).points) == 0
    assert len(voxelize([low - 1e-3], GRID).points) == 0


def test_a_point_too_far_for_an_integer_cell_is_outside():
    far = torch.tensor([[3e38, 0.0, 0.0], [-3e38, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert voxelize([far], GRID).points.tolist() == [[1.0, 0.0, 0.0]]


def test_the_order_of_the_points_does_not_change_the_voxels():
    points = frame(120)
    a, b = voxelize([points], GRID), voxelize([points.flip(0)], GRID)
    assert torch.equal(a.coords, b.coords) and torch.equal(a.lengths, b.lengths)
    for rows_a, rows_b in zip(
        a.points.split(a.lengths.tolist()), b.points.split(b.lengths.tolist()), strict=True
    ):
        assert torch.equal(rows_a, rows_b.flip(0))


def test_keys_do_not_overflow_where_32_bits_would():
    grid = VoxelGrid(point_range=(0.0, 0.0, 0.0, 4000.0, 4000.0, 400.0), voxel_size=(1.0, 1.0, 1.0))
    far = torch.tensor([[3999.5, 3999.5, 399.5]])
    got = voxelize([far[:0], far], grid)  # 6.4e9 cells a frame
    assert got.coords.tolist() == [[1, 399, 3999, 3999]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [1, 4])
def test_a_value_that_is_not_finite_is_refused_with_its_frame(bad, column):
    wrong = frame(5)
    wrong[3, column] = bad
    with pytest.raises(
        ValueError, match=r"points\[2\] \(frame 2 of 3\) must be finite, row 3 is \(.*(nan|inf)"
    ):
        voxelize([frame(4), frame(0), wrong], GRID)


@pytest.mark.parametrize(
    ("points", "error", "text"),
    [
        (torch.zeros(4, 5), TypeError, "points must be a list of tensors, one a frame, got Tensor"),
        ([], ValueError, "points must have at least one frame, got none"),
        ([[1.0, 2.0, 3.0]], TypeError, r"points\[0\] .* must be a tensor, got list"),
        ([torch.zeros(4, 2)], ValueError, r"points\[0\] .* must be \(N, 3 \+ extras\), got \(4, 2\)"),
        ([torch.zeros(4)], ValueError, r"points\[0\] .* must be \(N, 3 \+ extras\), got \(4,\)"),
        ([torch.zeros(4, 3, dtype=torch.int32)], TypeError, "must be float32 or float64, got torch.int32"),
        ([torch.zeros(4, 3).half()], TypeError, "must be float32 or float64, got torch.float16"),
        (
            [torch.zeros(4, 3), torch.zeros(4, 4)],
            ValueError,
            r"points\[1\] .* must be as points\[0\], 3 values",
        ),
        (
            [torch.zeros(4, 3), torch.zeros(4, 3).double()],
            ValueError,
            r"points\[1\] .* torch.float32, on cpu, got",
        ),
    ],
    ids=["one tensor", "no frames", "a list", "x and y", "one axis", "integers", "half", "widths", "dtypes"],
)
def test_what_is_not_a_batch_of_frames_is_refused(points, error, text):
    with pytest.raises(error, match=text):
        voxelize(points, GRID)
