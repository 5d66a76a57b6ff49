"""Merging, voxel generation and expanding: the recorded figures, loops over voxels, and odd grids."""

import pytest
import torch

from linzoo.pointcloud.lion.generation import generated_cells, most_active
from linzoo.pointcloud.lion.merge import Merge, coarse_cells, expand
from linzoo.pointcloud.voxels import Voxels

from ..parity_fill import assert_matches, figures, random
from .lion_cases import TOLERANCE, assert_gradient, cells, filled, permuted, sample, scattered

RECORDED = figures("lion_structure")
RESULTS = RECORDED["results"]
MERGES = ["merge_222", "merge_112_diffusion4", "merge_112_diffusion2", "merge_222_diffusion4"]


def recorded_merge(name, dtype=torch.float32):
    figure = RESULTS[name]
    config = figure["config"]
    generation = {}
    if config.get("diffusion"):
        generation = {
            "generate_share": config["diff_scale"],
            "generate_ways": config.get("diffusion_scale", 4),
        }
    merge = Merge(config["dim"], tuple(config["down_scale"][::-1]), **generation)
    shape = RECORDED["grouping"]["spatial_shape_zyx"]
    voxels = cells(RECORDED["grouping"]["coords_bzyx"], shape, config["dim"], dtype=dtype, seed=63)
    return figure, filled(merge, figure["state_dict"], dtype), voxels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MERGES)
def test_merges_are_those_recorded(name, dtype):
    figure, merge, voxels = recorded_merge(name, dtype)
    voxels.features.requires_grad_()
    coarse, parent = merge(voxels)
    assert sum(p.numel() for p in merge.parameters()) == figure["params"]
    assert list(coarse.shape) == figure["new_spatial_shape"]
    assert coarse.coords.tolist() == figure["output_coords_bzyx"]
    kept = len(voxels)
    assert parent[:kept].tolist() == figure["unq_inv"][:kept]
    assert sorted(parent[kept:].tolist()) == sorted(figure["unq_inv"][kept:])  # the set is what matters
    assert_matches(coarse.features, figure["output"], TOLERANCE)
    assert_gradient(coarse.features, voxels.features, figure["input_grad"])


def test_expanding_is_that_recorded():
    _, merge, voxels = recorded_merge("merge_222")
    coarse, parent = merge(voxels)
    fine = voxels.with_features(random(voxels.features.shape, 64).float())
    assert_matches(expand(coarse, fine, parent).features, RESULTS["expand"]["output"], TOLERANCE)


def test_the_last_row_of_an_odd_grid_keeps_a_cell_of_its_own():
    """The authors' floor-divided strides give it a neighbour's key: the first two of three fall together."""
    figure = RESULTS["odd_grid_hazard"]
    coarse = coarse_cells(torch.tensor(figure["coords"]), figure["spatial_shape"], (2, 2, 2))
    assert coarse.coords.tolist() == [[0, 0, 10, 1], [0, 0, 0, 2], [0, 1, 2, 2]]
    assert coarse.parent.tolist() == [0, 1, 2]
    assert coarse.shape == (4, 11, 12)
    assert figure["upstream_coords"] != coarse.coords.tolist() and figure["upstream_inv"] == [0, 0, 1]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 9), (4, 7, 6), (8, 10, 12)], ids=str)
@pytest.mark.parametrize("down", [(2, 2, 2), (2, 1, 1), (1, 3, 2)], ids=str)
def test_coarse_cells_are_those_of_a_loop(shape, down):
    filled_cells = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) < 0.5
    filled_cells[1, -1, -1, -1] = True
    coords = filled_cells.nonzero()
    coarse = coarse_cells(coords, shape, down)
    inside = [tuple(c // d for c, d in zip(row[1:], down, strict=True)) for row in coords.tolist()]
    wanted = sorted(
        {(row[0], *cell) for row, cell in zip(coords.tolist(), inside, strict=True)},
        key=lambda row: (row[0], row[3], row[2], row[1]),
    )
    assert coarse.coords.tolist() == [list(row) for row in wanted]
    assert [wanted[p][1:] for p in coarse.parent.tolist()] == inside
    assert (coarse.coords[:, 1:] < torch.tensor(coarse.shape)).all()


def test_coarse_features_are_sums_over_cells_before_the_norm():
    voxels = scattered((30, 11))
    merge = Merge(16, (2, 2, 2)).double()
    merge.norm = torch.nn.Identity()
    coarse, parent = merge(voxels)
    conv, norm, act = merge.sub_conv
    fine = act(norm(conv(voxels).features))
    wanted = torch.zeros(len(coarse), 16, dtype=torch.float64).index_add_(0, parent, fine)
    torch.testing.assert_close(coarse.features, wanted)


def chosen_by_a_loop(voxels, share):
    """Rows of the int(share n) largest channel means of each sample, equal ones by cell."""
    chosen = []
    for b in range(voxels.batch_size):
        rows = (voxels.coords[:, 0] == b).nonzero().squeeze(1).tolist()
        means = voxels.features.mean(1)
        rows.sort(key=lambda row: (-means[row].item(), voxels.coords[row].tolist()))
        chosen += rows[: int(share * len(rows))]
    return chosen


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.3, 1.0])
@pytest.mark.parametrize("counts", [(0, 1, 4, 5, 10, 37), (20,), (3, 0)], ids=str)
def test_the_most_active_voxels_are_those_of_a_loop(counts, share, ties):
    voxels, _ = permuted(scattered(counts))
    if ties:
        voxels = voxels.with_features(voxels.features.sign())
    assert most_active(voxels, share).tolist() == chosen_by_a_loop(voxels, share)


@pytest.mark.parametrize("ways", [2, 4])
def test_generated_cells_are_diagonal_neighbours_within_the_grid(ways):
    corners = [[b, z, y, x] for b in (0, 1) for z in (0, 3) for y in (0, 2) for x in (0, 4)]
    voxels = cells(corners, (4, 3, 5), 8)
    wanted = set()
    for b, z, y, x in corners:
        for dx, dy in ((-1, 1), (1, 1), (-1, -1), (1, -1))[:ways]:
            wanted.add((b, z, min(max(y + dy, 0), 2), min(max(x + dx, 0), 4)))
    assert set(map(tuple, generated_cells(voxels, 1.0, ways).tolist())) == wanted


def test_generated_voxels_change_nothing_where_a_cell_exists_and_start_as_the_bias_where_none_does():
    voxels = scattered((40, 25))
    plain, generating = Merge(16, (2, 1, 1)).double(), Merge(16, (2, 1, 1), generate_share=0.4).double()
    generating.load_state_dict(plain.state_dict())
    torch.nn.init.normal_(generating.norm.bias)
    plain.norm.bias = generating.norm.bias
    (before, old), (after, new) = plain(voxels), generating(voxels)
    assert len(after) > len(before)
    torch.testing.assert_close(after.features[new[: len(voxels)]], before.features[old])
    made = torch.ones(len(after), dtype=torch.bool)
    made[new[: len(voxels)]] = False
    assert torch.equal(after.features[made], generating.norm.bias.expand(int(made.sum()), -1))


def test_generated_voxels_pass_no_gradient_to_what_chose_them():
    """A voxel gets exactly the gradient that it has without generation, whatever it was chosen for."""
    voxels = scattered((40, 25))
    plain, generating = Merge(16, (2, 1, 1)).double(), Merge(16, (2, 1, 1), generate_share=0.4).double()
    generating.load_state_dict(plain.state_dict())
    gradients = []
    for merge in (plain, generating):
        features = voxels.features.clone().requires_grad_()
        coarse, parent = merge(voxels.with_features(features))
        probe = random((len(voxels), 16), 7)  # by fine rows, so that both merges have the same loss on them
        loss = (coarse.features[parent[: len(voxels)]] * probe).sum()
        if merge is generating:
            made = torch.ones(len(coarse), dtype=torch.bool)
            made[parent[: len(voxels)]] = False
            loss = loss + (coarse.features[made] ** 2).sum()
        gradients.append(torch.autograd.grad(loss, features)[0])
    assert torch.equal(*gradients)


def test_a_batch_is_merged_as_its_samples_alone():
    voxels, merge = scattered((21, 0, 1, 40)), Merge(16, (2, 2, 2), generate_share=0.3).double()
    together, parent = merge(voxels)
    for b in range(4):
        alone, rows = sample(voxels, b)
        coarse, inverse = merge(alone)
        own = together.coords[:, 0] == b
        assert torch.equal(together.coords[own][:, 1:], coarse.coords[:, 1:])
        torch.testing.assert_close(together.features[own], coarse.features)
        start = int((together.coords[:, 0] < b).sum())
        assert torch.equal(parent[rows], inverse[: len(rows)] + start)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_order_of_rows_does_not_change_a_merge(share):
    voxels, merge = scattered((21, 40)), Merge(16, (2, 2, 2), generate_share=share).double()
    other, order = permuted(voxels)
    (one, parent), (two, moved) = merge(voxels), merge(other)
    assert torch.equal(one.coords, two.coords)
    assert torch.equal(parent[: len(voxels)][order], moved[: len(voxels)])
    torch.testing.assert_close(one.features, two.features)


def test_no_voxels_merge_into_none():
    voxels = Voxels(
        features=torch.zeros(0, 16),
        coords=torch.zeros(0, 4, dtype=torch.int64),
        shape=(8, 5, 5),
        batch_size=2,
    )
    coarse, parent = Merge(16, (2, 2, 2), generate_share=0.2)(voxels)
    assert len(coarse) == len(parent) == 0 and coarse.shape == (4, 3, 3) and coarse.batch_size == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"down": (2, 2)}, r"down must be three whole numbers of cells \(z, y, x\) > 0, got \(2, 2\)"),
        ({"down": (2, 0, 1)}, r"down must be three whole numbers"),
        ({"generate_share": 1.5}, r"generate_share must be a share of the voxels in 0 .. 1, got 1.5"),
        ({"generate_ways": 3}, r"generate_ways must be 2 or 4 neighbours, got 3"),
    ],
)
def test_words_that_are_none_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Merge(16, **({"down": (2, 2, 2)} | words))
