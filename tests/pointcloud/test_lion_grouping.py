"""LION's groups: the recorded maps, and what groups do to samples of any size."""

import pytest
import torch

from linzoo.kernels.segments import cu_seqlens_to_lengths
from linzoo.pointcloud.lion.grouping import group, packed_slots, padded_slots
from linzoo.pointcloud.windows import window_order

from ..parity_fill import figures
from .lion_cases import cells, permuted, sample, scattered

RECORDED = figures("lion_structure")["grouping"]


@pytest.mark.parametrize("name", RECORDED["maps"])
def test_groups_are_those_recorded(name):
    figure = RECORDED["maps"][name]
    rows = figure.get("coords_bzyx", RECORDED["coords_bzyx"])
    voxels, window = cells(rows, RECORDED["spatial_shape_zyx"]), tuple(figure["window_shape_xyz"][::-1])
    lengths = torch.bincount(voxels.coords[:, 0])
    slots = padded_slots(lengths, figure["group_size"])
    assert slots.place.tolist() == figure["flat2win"]
    assert slots.own.tolist() == figure["win2flat"]
    for axis in ("x", "y"):
        order = window_order(voxels, window, axis=axis, shifted=figure["shift"])
        assert order.tolist() == figure[axis]
        groups = group(voxels, window, figure["group_size"], axis=axis, shifted=figure["shift"])
        assert torch.equal(groups.voxel, order[slots.place])
        assert torch.equal(groups.voxel[groups.own], torch.arange(len(voxels)))


def slots_by_loops(lengths, size):
    """The voxel of each slot and the slot of each voxel, sample by sample and slot by slot."""
    place, own, start = [], [], 0
    for n in lengths:
        slots = -(-n // size) * size
        first = len(place)
        for slot in range(slots):
            if slot < n:
                place.append(start + slot)
                own.append(first + slot)
            else:
                place.append(place[first + slot - size] if n > size else start + slot % n)
        start += n
    return place, own


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize(
    "lengths", [[0], [1], [7], [8], [28], [3, 0, 29, 1], [0, 0, 5], [12, 4, 8], []], ids=str
)
def test_slots_are_those_of_a_loop(lengths, size):
    slots = padded_slots(torch.tensor(lengths, dtype=torch.int64), size)
    place, own = slots_by_loops(lengths, size)
    assert slots.place.tolist() == place and slots.own.tolist() == own and slots.cu_seqlens is None


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("lengths", [[0], [1], [7], [28], [3, 0, 29, 1], [12, 4, 8]], ids=str)
def test_without_padding_every_voxel_has_one_slot_in_a_group_of_its_sample(lengths, size):
    slots = packed_slots(torch.tensor(lengths), size)
    wanted = [min(size, n - i) for n in lengths for i in range(0, n, size)]
    assert cu_seqlens_to_lengths(slots.cu_seqlens).tolist() == wanted
    assert slots.place.tolist() == slots.own.tolist() == list(range(sum(lengths)))
    assert slots.cu_seqlens.dtype == torch.int32


@pytest.mark.parametrize("padding", ["repeat", "none"])
@pytest.mark.parametrize("counts", [(0, 1, 7, 40), (16, 32), (5, 0)], ids=str)
def test_tokens_come_back_to_their_voxels(counts, padding):
    voxels = scattered(counts)
    groups = group(voxels, (4, 5, 5), 16, axis="y", shifted=True, padding=padding)
    tokens = groups.tokens(voxels.features)
    assert tokens.shape[-1] == 16 and (padding == "none" or tokens.shape[1] == 16)
    assert torch.equal(groups.rows(tokens), voxels.features)


@pytest.mark.parametrize("padding", ["repeat", "none"])
def test_no_group_mixes_samples(padding):
    voxels = scattered((0, 1, 7, 40, 16))
    groups = group(voxels, (4, 5, 5), 16, axis="x", padding=padding)
    samples = groups.tokens(voxels.coords[:, :1].double()).squeeze(-1)
    if padding == "none":
        lengths = cu_seqlens_to_lengths(groups.cu_seqlens).tolist()
        assert all(len(part.unique()) == 1 for part in samples.squeeze(0).split(lengths))
    else:
        assert torch.equal(samples, samples[:, :1].expand_as(samples))


@pytest.mark.parametrize("padding", ["repeat", "none"])
def test_a_batch_is_grouped_as_its_samples_alone(padding):
    voxels = scattered((21, 0, 40))
    words = dict(axis="x", shifted=True, padding=padding)
    together = group(voxels, (4, 5, 5), 16, **words).tokens(voxels.features)
    parts = []
    for b in (0, 2):
        alone, _ = sample(voxels, b)
        parts.append(group(alone, (4, 5, 5), 16, **words).tokens(alone.features))
    assert torch.equal(together, torch.cat(parts, 1 if padding == "none" else 0))


@pytest.mark.parametrize("padding", ["repeat", "none"])
def test_the_order_of_rows_does_not_change_the_tokens(padding):
    voxels = scattered((21, 40))
    other, _ = permuted(voxels)
    words = dict(axis="y", padding=padding)
    one, two = (group(v, (4, 5, 5), 16, **words).tokens(v.features) for v in (voxels, other))
    assert torch.equal(one, two)


def test_groups_are_made_once_for_the_same_cells():
    voxels = scattered((21, 40))
    first = group(voxels, (4, 5, 5), 16, axis="x")
    again = group(voxels.with_features(voxels.features + 1), (4, 5, 5), 16, axis="x")
    assert first is again
    assert group(voxels, (4, 5, 5), 16, axis="x", padding="none") is not first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": 0}, r"group must be a whole number of voxels >= 1, got 0"),
        ({"size": 2.5}, r"group must be a whole number of voxels >= 1, got 2.5"),
        ({"padding": "zero"}, r"padding must be one of \('repeat', 'none'\), got 'zero'"),
    ],
)
def test_words_that_are_none_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        group(scattered((3,)), (4, 5, 5), **({"size": 4, "axis": "x"} | words))
