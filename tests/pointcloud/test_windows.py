"""Windows and the orders by them, against loops over voxels."""

import math

import pytest
import torch

from linzoo.kernels.segments import cu_seqlens_to_lengths, runs
from linzoo.pointcloud.voxels import Voxels
from linzoo.pointcloud.windows import window_coords, window_ids, window_order, windows_along

SHAPE = (7, 11, 13)
WINDOWS = [(2, 3, 4), (7, 5, 5), (1, 1, 1), (9, 20, 20)]


def scattered(share=0.2, batch=3, seed=0):
    """Voxels of ``batch`` grids in any order; the middle one of three is empty."""
    generator = torch.Generator().manual_seed(seed)
    filled = torch.rand(batch, *SHAPE, generator=generator) < share
    if batch == 3:
        filled[1] = False
    coords = filled.nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return Voxels(features=torch.zeros(len(coords), 1), coords=coords, shape=SHAPE, batch_size=batch)


def tuple_key(row, window, axis, shifted):
    """(b, window..., place...) as the order compares them."""
    b, *cell = row
    moved = [c + (w // 2 if shifted else 0) for c, w in zip(cell, window, strict=True)]
    at = [m // w for m, w in zip(moved, window, strict=True)]
    inside = [m % w for m, w in zip(moved, window, strict=True)]
    columns = (2, 1, 0) if axis == "x" else (1, 2, 0)
    return (b, *(at[c] for c in columns), *(inside[c] for c in columns))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_orders_are_those_of_sorted_tuples(window, axis, shifted):
    voxels = scattered()
    rows = voxels.coords.tolist()
    wanted = sorted(range(len(rows)), key=lambda i: tuple_key(rows[i], window, axis, shifted))
    assert window_order(voxels, window, axis=axis, shifted=shifted).tolist() == wanted


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_hold_the_voxels_of_one_sample_and_box(window, shifted):
    voxels = scattered()
    ids = window_ids(voxels.coords, SHAPE, window, shifted=shifted)
    at = window_coords(voxels.coords, window, shifted=shifted).window
    boxes = torch.cat([voxels.coords[:, :1], at], 1)
    same = (boxes.unsqueeze(0) == boxes.unsqueeze(1)).all(-1)
    assert torch.equal(ids.unsqueeze(0) == ids.unsqueeze(1), same)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_the_last_cell_lies_in_the_last_window(window, shifted):
    last = torch.tensor([[1, *(n - 1 for n in SHAPE)]])
    windows = 2 * math.prod(windows_along(SHAPE, window, shifted=shifted))
    assert window_ids(last, SHAPE, window, shifted=shifted).item() == windows - 1


def test_full_height_windows_are_columns_of_the_bird_s_eye_view():
    voxels, w = scattered(), 4
    ids = window_ids(voxels.coords, SHAPE, (SHAPE[0], w, w))
    b, _, y, x = voxels.coords.unbind(1)
    assert torch.equal(ids, (b * 3 + y // w) * 4 + x // w)
    order, cu_seqlens = runs(ids, 3 * math.prod(windows_along(SHAPE, (SHAPE[0], w, w))))
    assert cu_seqlens_to_lengths(cu_seqlens).tolist() == torch.bincount(ids, minlength=36).tolist()
    assert (ids[order].diff() >= 0).all()


def test_a_shifted_grid_has_a_window_more_where_it_sticks_out():
    assert windows_along((8, 10, 12), (4, 5, 5)) == (2, 2, 3)
    assert windows_along((8, 10, 12), (4, 5, 5), shifted=True) == (3, 3, 3)
    assert windows_along((2, 13, 13), (2, 13, 13), shifted=True) == (2, 2, 2)


def test_orders_are_made_once_for_the_same_coordinates():
    voxels = scattered()
    first = window_order(voxels, (2, 3, 4), axis="x")
    again = window_order(voxels.with_features(torch.ones(len(voxels), 5)), (2, 3, 4), axis="x")
    assert again is first
    assert window_order(voxels, (2, 3, 4), axis="x", shifted=True) is not first


def test_no_voxels_have_an_empty_order():
    voxels = scattered(share=0.0)
    assert window_order(voxels, (2, 3, 4), axis="y").shape == (0,)
    assert window_ids(voxels.coords, SHAPE, (2, 3, 4)).shape == (0,)


def test_keys_of_large_grids_and_batches_do_not_overflow():
    shape, batch = (64, 2048, 2048), 64  # 2 ** 34 cells
    coords = torch.tensor([[0, 0, 0, 0], [batch - 1, 63, 2047, 2047], [batch - 1, 63, 2047, 2046]])
    voxels = Voxels(features=torch.zeros(3, 1), coords=coords, shape=shape, batch_size=batch)
    assert window_order(voxels, (64, 13, 13), axis="x", shifted=True).tolist() == [0, 2, 1]


@pytest.mark.parametrize("window", [(2, 3), (0, 3, 3), (2, 3, -1), (2.0, 3, 3)], ids=str)
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(ValueError, match=r"window must be three whole numbers of cells \(z, y, x\) > 0, got"):
        window_coords(torch.zeros(1, 4, dtype=torch.int64), window)


def test_an_axis_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"axis must be one of \('x', 'y'\), got 'z'"):
        window_order(scattered(), (2, 3, 4), axis="z")
