"""Pair lists: which rows meet, in which order, and what they never do."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import conv3d

from linzoo.kernels import depthwise_sparse_conv, sparse_conv, strided_pairs, submanifold_pairs
from linzoo.kernels.sparse_conv.geometry import cells

from .sparse_conv_cases import CASES, Case, all_cells, dense


def listed(pairs) -> list[set[tuple[int, int]]]:
    """The pairs of every kernel cell."""
    rows = list(zip(pairs.inputs.tolist(), pairs.outputs.tolist(), strict=True))
    edges = pairs.offsets.tolist()
    return [set(rows[a:b]) for a, b in pairwise(edges)]


def by_loops(case: Case, coords, outputs) -> list[set[tuple[int, int]]]:
    """From the definition: input cell = output cell * stride - padding + kernel cell, same sample."""
    stride = case.stride or (1, 1, 1)
    padding = case.padding if case.stride else tuple(k // 2 for k in case.kernel)
    place = {tuple(c): i for i, c in enumerate(coords.tolist())}
    found = []
    for cell in cells(case.kernel):
        own = set()
        for o, (b, *at) in enumerate(outputs.tolist()):
            source = (b, *(a * s - p + k for a, s, p, k in zip(at, stride, padding, cell, strict=True)))
            if source in place:
                own.add((place[source], o))
        found.append(own)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pairs_are_those_of_the_definition_each_once_with_rising_outputs(case):
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    found = listed(pairs)
    assert found == by_loops(case, coords, outputs)
    assert sum(len(own) for own in found) == len(pairs)
    edges = pairs.offsets.tolist()
    for a, b in pairwise(edges):
        assert (pairs.outputs[a:b].diff() > 0).all()
    assert pairs.n_in == len(coords) and pairs.n_out == len(outputs) and pairs.kernel_size == case.kernel


@pytest.mark.parametrize("case", [c for c in CASES if c.stride], ids=str)
def test_outputs_are_the_cells_that_any_input_touches_sorted_within_the_grid_of_conv3d(case):
    coords = case.coords()
    _, outputs, shape = case.pairs(coords)
    ones = dense(torch.ones(len(coords), 1), coords, case.batch, case.shape)
    touched = conv3d(ones, torch.ones(1, 1, *case.kernel), **case.words())[:, 0]
    assert shape == tuple(touched.shape[1:])
    assert torch.equal(outputs, (touched > 0).nonzero())


def test_the_middle_cell_of_a_submanifold_pairs_every_row_with_itself():
    case = CASES[1]
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    assert pairs.identity == 13
    assert listed(pairs)[13] == {(i, i) for i in range(len(coords))}


def test_opposite_kernel_cells_hold_the_same_pairs_exchanged():
    case = CASES[1]
    found = listed(case.pairs(case.coords())[0])
    assert [{(o, i) for i, o in own} for own in found] == found[::-1]


@pytest.mark.parametrize("kernel", [(1, 1, 13), (1, 13, 1), (13, 1, 1), (5, 5, 5)])
def test_cells_at_opposite_edges_never_meet_though_their_plain_keys_are_neighbours(kernel):
    shape = (3, 4, 5)
    far = torch.tensor([[0, 0, 0, 4], [0, 0, 1, 0], [0, 0, 3, 4], [0, 1, 0, 0], [0, 2, 3, 4], [1, 0, 0, 0]])
    case = Case(shape=shape, kernel=kernel)
    assert listed(submanifold_pairs(far, shape, kernel)) == by_loops(case, far, far)
    full = all_cells(2, shape)
    assert listed(submanifold_pairs(full, shape, kernel)) == by_loops(case, full, full)


def test_large_grids_times_batch_do_not_overflow():
    shape = (2**18, 2**18, 2**18)
    top = torch.tensor([[200, z, 2**18 - 1, x] for z in (0, 2**18 - 1) for x in (2**18 - 2, 2**18 - 1)])
    pairs = submanifold_pairs(top, shape)
    assert [len(own) for own in listed(pairs)] == [0] * 12 + [2, 4, 2] + [0] * 12
    pairs, outputs, coarse = strided_pairs(top, shape, 2, 2)
    assert coarse == (2**17,) * 3
    assert outputs.tolist() == [[200, 0, 2**17 - 1, 2**17 - 1], [200, 2**17 - 1, 2**17 - 1, 2**17 - 1]]


@pytest.mark.parametrize("stride", [None, (2, 1, 2)], ids=["subm", "strided"])
def test_permuted_rows_permute_the_outputs_of_a_submanifold_and_leave_those_of_a_strided_one(stride):
    case = Case(stride=stride, kernel=(3, 3, 3), padding=(1, 1, 1), shape=(5, 5, 4))
    coords = case.coords()
    x = case.inputs(len(coords))
    order = torch.randperm(len(coords))
    y, moved = (
        sparse_conv(x["x"][rows], x["weight"], case.pairs(coords[rows])[0])
        for rows in (torch.arange(len(coords)), order)
    )
    assert torch.allclose(moved, y if stride else y[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [None, (2, 1, 1)], ids=["subm", "strided"])
def test_a_batch_equals_its_samples_one_by_one_also_when_some_are_empty(stride):
    case = Case(stride=stride, batch=4, shape=(4, 3, 5))
    coords = case.coords()
    coords = coords[coords[:, 0] % 2 == 0]  # samples 1 and 3 are empty
    x = case.inputs(len(coords))
    pairs, outputs, _ = case.pairs(coords)
    y = sparse_conv(x["x"], x["weight"], pairs)
    for b in range(4):
        own = coords[:, 0] == b
        alone, cells_of, _ = case.pairs(coords[own])
        assert torch.equal(cells_of, outputs[outputs[:, 0] == b])
        assert torch.equal(sparse_conv(x["x"][own], x["weight"], alone), y[outputs[:, 0] == b])


def test_a_full_grid_is_conv3d():
    case = Case(occupied=1.0, shape=(3, 4, 5))
    coords = case.coords()
    x = case.inputs(len(coords))
    grid = dense(x["x"], coords, case.batch, case.shape)
    wanted = conv3d(grid, x["weight"].permute(0, 4, 1, 2, 3), padding=1)
    y = sparse_conv(x["x"], x["weight"], case.pairs(coords)[0])
    assert torch.allclose(dense(y, coords, case.batch, case.shape), wanted, rtol=0, atol=1e-12)


def test_transposed_pairs_give_the_transposed_convolution():
    """<y, conv x> = <conv^T y, x>, where conv^T exchanges the lists and the weight's channels."""
    from dataclasses import replace

    case = CASES[11]
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    y = torch.randn(pairs.n_out, case.cout, dtype=torch.float64)
    back = replace(
        pairs, inputs=pairs.outputs, outputs=pairs.inputs, n_in=pairs.n_out, n_out=pairs.n_in, cache={}
    )
    conv_x = sparse_conv(x["x"], x["weight"], pairs)
    conv_y = sparse_conv(y, x["weight"].transpose(0, 4), back)
    assert torch.allclose((y * conv_x).sum(), (conv_y * x["x"]).sum(), rtol=1e-12)


def test_a_depthwise_convolution_is_a_convolution_with_a_diagonal_weight():
    case = CASES[1]
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    diagonal = torch.diag_embed(x["scales"]).permute(3, 0, 1, 2, 4)
    wanted = sparse_conv(x["x"], diagonal, pairs)
    assert torch.allclose(depthwise_sparse_conv(x["x"], x["scales"], pairs), wanted, rtol=0, atol=1e-12)


def test_the_same_call_gives_the_same_bits():
    case = CASES[1]
    coords = case.coords()
    x = {name: t.detach().float() for name, t in case.inputs(len(coords)).items()}
    runs = []
    for _ in range(2):
        pairs, _, _ = case.pairs(coords)
        leaves = {name: t.clone().requires_grad_() for name, t in x.items()}
        y = sparse_conv(leaves["x"], leaves["weight"], pairs, bias=leaves["bias"])
        y.square().sum().backward()
        runs.append((pairs.inputs, pairs.outputs, y, leaves["x"].grad, leaves["weight"].grad))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("case", [CASES[1], CASES[6], CASES[11]], ids=str)
def test_the_tables_hold_the_pairs_in_both_directions(case):
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    exchanged = [{(o, i) for i, o in own} for own in listed(pairs)]
    tables = (pairs.table(), listed(pairs), pairs.n_out), (pairs.transposed_table(), exchanged, pairs.n_in)
    for table, own, n_out in tables:
        order = table[-1].tolist()
        assert sorted(order) == list(range(n_out)) and table.dtype == torch.int32
        found = [{(i, o) for i, o in zip(row, order, strict=True) if i >= 0} for row in table[:-1].tolist()]
        assert found == own
    assert pairs.table() is pairs.table()
