"""Lengths, ids, cu_seqlens and tiles."""

import pytest
import torch

from linzoo.kernels import segments

LENGTHS = torch.tensor([0, 5, 1, 0, 0, 11, 0])


def test_lengths_offsets_and_ids_convert_both_ways():
    cu = segments.lengths_to_cu_seqlens(LENGTHS)
    assert cu.dtype == torch.int32
    assert cu.tolist() == [0, 0, 5, 6, 6, 6, 17, 17]
    assert torch.equal(segments.cu_seqlens_to_lengths(cu), LENGTHS)
    ids = segments.cu_seqlens_to_ids(cu)
    assert ids.tolist() == [1] * 5 + [2] + [5] * 11
    assert torch.equal(segments.ids_to_cu_seqlens(ids, 7), cu)


def test_runs_sort_ids_and_keep_the_order_of_equal_ones():
    ids = torch.tensor([3, 0, 3, 1, 0, 3], dtype=torch.int32)
    order, cu = segments.runs(ids, 5)
    assert order.tolist() == [1, 4, 3, 0, 2, 5]
    assert cu.tolist() == [0, 2, 3, 3, 6, 6]


@pytest.mark.parametrize("size", [1, 4, 8, 64])
def test_tiles_cover_every_token_once_and_never_cross_a_segment(size):
    cu = segments.lengths_to_cu_seqlens(LENGTHS)
    tiles = segments.tiles(cu, size)
    assert tiles.index[tiles.valid].tolist() == list(range(17))
    ids = segments.cu_seqlens_to_ids(cu)
    assert torch.equal(ids[tiles.index], tiles.segment[:, None].expand_as(tiles.index))
    assert tiles.segment.tolist() == sorted(tiles.segment.tolist())
    assert len(tiles.segment) == int(((LENGTHS + size - 1) // size).sum())


def test_counts_follow_the_mask():
    cu = segments.lengths_to_cu_seqlens(LENGTHS)
    mask = torch.ones(17, dtype=torch.bool)
    mask[[0, 5, 16]] = False
    assert segments.segment_counts(None, cu).tolist() == LENGTHS.tolist()
    assert segments.segment_counts(mask, cu).tolist() == [0, 4, 0, 0, 0, 10, 0]
