"""Shifted windows and stripes: against a softmax over all tokens with a mask of who may see whom."""

import pytest
import torch
from torch.nn.functional import conv2d

from linzoo.vision.inline import symbols, window_attention, windows
from linzoo.vision.inline.cswin import StripeBranch
from linzoo.vision.inline.window_attention import WindowAttention, relative_index
from linzoo.vision.inline.windows import Windows, join_windows, shifted_windows, split_windows

GRIDS = [(7, 7), (14, 14), (14, 21), (9, 16), (5, 20), (3, 4), (1, 1), (8, 7)]
over_grids = pytest.mark.parametrize("grid", GRIDS, ids="{0[0]}x{0[1]}".format)


@pytest.fixture(params=["eager", "recorded"])
def mode(request, monkeypatch):
    """Both ways to cut windows; the second is for sizes that are symbols."""
    if request.param == "recorded":
        for module in (windows, window_attention):
            monkeypatch.setattr(module, "sizes_are_symbols", lambda: True)
    assert not symbols.sizes_are_symbols()
    return request.param


def cells(length, window, shift):
    """The window of every place along an axis; places before ``shift`` have a window of their own."""
    place = torch.arange(length)
    return torch.where(place < shift, -1, (place - shift) // window)


def may_attend(grid, window, shifted):
    """(N, N) bool: same window down and across."""
    shift = [window // 2 * (shifted and length > window) for length in grid]
    down, across = (cells(n, window, s) for n, s in zip(grid, shift, strict=True))
    cell = torch.stack((down.repeat_interleave(grid[1]), across.repeat(grid[0])), -1)
    return (cell.unsqueeze(0) == cell.unsqueeze(1)).all(-1)


def split_heads(linear, x, heads):
    return linear(x.flatten(1, 2)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


@over_grids
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_is_softmax_over_the_tokens_of_a_window_at_any_size(grid, shifted, mode):
    torch.manual_seed(0)
    attn = WindowAttention(8, 2, 7, shifted, dtype=torch.float64)
    torch.nn.init.normal_(attn.relative_position_bias_table)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    q, k, v = split_heads(attn.qkv, x, 2)
    row, column = torch.arange(grid[0]).repeat_interleave(grid[1]), torch.arange(grid[1]).repeat(grid[0])
    down, across = row.unsqueeze(1) - row, column.unsqueeze(1) - column
    place = (down.clamp(-6, 6) + 6) * 13 + across.clamp(-6, 6) + 6
    scores = q @ k.mT / 2 + attn.relative_position_bias_table[place].permute(2, 0, 1)
    scores = scores.masked_fill(~may_attend(grid, 7, shifted), -torch.inf)
    want = attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(1, grid)
    torch.testing.assert_close(attn(x), want, rtol=1e-10, atol=1e-10)


@over_grids
@pytest.mark.parametrize("axis", ["down", "across", "all"])
def test_stripes_are_softmax_and_a_convolution_within_them_at_any_size(grid, axis, mode):
    torch.manual_seed(0)
    branch = StripeBranch(8, 2, axis, 7, dtype=torch.float64)
    q, k, v = torch.randn(3, 2, *grid, 8, dtype=torch.float64)
    got = branch(q, k, v, None)
    sides = {"down": (grid[0], 7), "across": (7, grid[1]), "all": grid}[axis]
    want = torch.zeros_like(got)
    for top in range(0, grid[0], sides[0]):
        for left in range(0, grid[1], sides[1]):
            part = slice(None), slice(top, top + sides[0]), slice(left, left + sides[1])
            a, b, c = (t[part].flatten(1, 2).unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
            y = ((a @ b.mT / 2).softmax(-1) @ c).transpose(1, 2).flatten(2)
            local = conv2d(
                v[part].permute(0, 3, 1, 2), branch.get_v.weight, branch.get_v.bias, padding=1, groups=8
            )
            want[part] = y.unflatten(1, v[part].shape[1:3]) + local.permute(0, 2, 3, 1)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@over_grids
def test_joining_gives_back_what_was_split(grid, mode):
    x = torch.randn(3, *grid, 2)
    for shifted in (False, True):
        cut = shifted_windows(x, 5, shifted)
        assert torch.equal(join_windows(split_windows(x, cut), cut), x)


@over_grids
def test_both_ways_of_cutting_give_the_same_windows_and_labels(grid, monkeypatch):
    x = torch.randn(2, *grid, 3)
    cut = Windows(2, grid, (4, 3), (2, 1))
    want, labels = split_windows(x, cut), windows.window_labels(cut, x.device)
    monkeypatch.setattr(windows, "sizes_are_symbols", lambda: True)
    assert torch.equal(split_windows(x, cut), want)
    assert torch.equal(windows.window_labels(cut, x.device), labels)


def test_windows_are_clipped_to_short_axes_which_are_not_shifted():
    x = torch.zeros(1, 5, 20, 1)
    assert shifted_windows(x, 7, True) == Windows(1, (5, 20), (5, 7), (0, 3))
    assert shifted_windows(x, 7, False).shift == (0, 0)
    assert shifted_windows(torch.zeros(1, 7, 8, 1), 7, True).shift == (0, 3)


def test_the_bias_of_a_pair_is_that_of_its_offset():
    index = relative_index((2, 3), 7)
    assert index.shape == (6, 6) and (index.diagonal() == 6 * 13 + 6).all()
    assert index[0, 1] == 6 * 13 + 5 and index[1, 0] == 6 * 13 + 7  # one to the right
    assert index[0, 3] == 5 * 13 + 6  # one down
