"""Attention of queries to map patches against torch's attention on patches gathered by loops."""

import pytest
import torch
from torch import nn

from linzoo.pointcloud.heads import local_attention
from linzoo.pointcloud.heads.local_attention import attend, patch_cells
from linzoo.pointcloud.heads.query_decoder import QueryDecoder, attend_to_itself

ROWS, COLUMNS, RADIUS, WIDTH = 5, 7, 2, 8
ROW, COLUMN = torch.tensor([0, 2, 4, 1, 3]), torch.tensor([0, 3, 6, 6, 0])
BORDERS = pytest.mark.parametrize("border", ["clamp", "wrap"])


def patch_by_loops(row: int, column: int, border: str) -> list[int]:
    """The cells of a patch, repeated as often as they are seen."""
    cells = []
    for r in range(row - RADIUS, row + RADIUS + 1):
        for c in range(column - RADIUS, column + RADIUS + 1):
            if border == "clamp":
                cells.append(min(max(r, 0), ROWS - 1) * COLUMNS + min(max(c, 0), COLUMNS - 1))
            elif 0 <= r * COLUMNS + c < ROWS * COLUMNS:
                cells.append(r * COLUMNS + c)
    return cells


@BORDERS
def test_a_patch_holds_what_the_border_rule_says(border):
    cell, seen = patch_cells(ROW, COLUMN, RADIUS, (ROWS, COLUMNS), border)
    for k, place in enumerate(zip(ROW.tolist(), COLUMN.tolist(), strict=True)):
        assert sorted(cell[k][seen[k]].tolist()) == sorted(patch_by_loops(*place, border))
    assert cell.min() >= 0 and cell.max() < ROWS * COLUMNS


def test_the_rules_agree_in_the_middle_and_wrap_goes_on_at_the_other_side():
    cell, seen = patch_cells(ROW, COLUMN, RADIUS, (ROWS, COLUMNS), "wrap")
    clamped, _ = patch_cells(ROW, COLUMN, RADIUS, (ROWS, COLUMNS), "clamp")
    assert torch.equal(cell[1], clamped[1]) and seen[1].all()
    right_of_row_1 = 1 * COLUMNS + 6 + 1
    assert right_of_row_1 == 2 * COLUMNS and right_of_row_1 in cell[3] and right_of_row_1 not in clamped[3]


def attention() -> nn.MultiheadAttention:
    attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True).double()
    nn.init.normal_(attn.in_proj_bias)
    nn.init.normal_(attn.out_proj.bias)
    return attn


def by_torch(attn: nn.MultiheadAttention, query, tokens, border) -> torch.Tensor:
    rows = []
    for k, place in enumerate(zip(ROW.tolist(), COLUMN.tolist(), strict=True)):
        patch = tokens[patch_by_loops(*place, border)][None]
        rows.append(attn(query[k][None, None], patch, patch, need_weights=False)[0][0, 0])
    return torch.stack(rows)


@BORDERS
def test_the_attention_is_torchs_on_each_patch_forward_and_every_gradient(border, monkeypatch):
    monkeypatch.setattr(local_attention, "CHUNK", 60)  # two queries at a time
    attn = attention()
    query = torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(ROWS * COLUMNS, WIDTH, dtype=torch.float64, requires_grad=True)
    inputs = [query, tokens, *attn.parameters()]
    probe = torch.randn(5, WIDTH, dtype=torch.float64)
    y = attend(attn, query, tokens, *patch_cells(ROW, COLUMN, RADIUS, (ROWS, COLUMNS), border))
    expected = by_torch(attn, query, tokens, border)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad((y * probe).sum(), inputs)
    for a, b in zip(got, torch.autograd.grad((expected * probe).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_patches_are_gathered_a_few_queries_at_a_time(monkeypatch):
    gathered = []

    def gather(table, index):
        gathered.append(len(index))
        return table[index]

    monkeypatch.setattr(local_attention, "segment_gather", gather)
    monkeypatch.setattr(local_attention, "CHUNK", 60)
    patches = patch_cells(ROW, COLUMN, RADIUS, (ROWS, COLUMNS), "clamp")
    tokens = torch.randn(ROWS * COLUMNS, WIDTH, dtype=torch.float64, requires_grad=True)
    y = attend(attention(), torch.randn(5, WIDTH, dtype=torch.float64), tokens, *patches)
    assert gathered == [50, 50, 25]
    y.sum().backward()
    assert sorted(gathered[3:]) == [25, 50, 50], "not gathered again for the gradient"


def test_attention_to_oneself_is_torchs_attention_over_one_token():
    attn, x = attention(), torch.randn(3, 4, WIDTH, dtype=torch.float64)
    alone = x.reshape(12, 1, WIDTH)
    expected = attn(alone, alone, alone, need_weights=False)[0].view_as(x)
    torch.testing.assert_close(attend_to_itself(attn, x), expected)


def test_no_queries_give_no_rows():
    none = torch.zeros(0, dtype=torch.int64)
    patches = patch_cells(none, none, RADIUS, (ROWS, COLUMNS), "clamp")
    y = attend(attention(), torch.zeros(0, WIDTH).double(), torch.zeros(35, WIDTH).double(), *patches)
    assert y.shape == (0, WIDTH)


def test_another_border_is_refused():
    with pytest.raises(ValueError, match=r"border must be one of \('clamp', 'wrap'\), got 'mirror'"):
        QueryDecoder(8, heads=2, hidden=8, radius=1, border="mirror", norm_eps=1e-3)


def decoder_written_out(model: QueryDecoder, query, at, bev, grid, row, column) -> torch.Tensor:
    """The published layer, query by query, with torch's attention: position on queries, keys and values."""
    places, cells = model.self_posembed(at), model.cross_posembed(grid[None])[0]
    rows = []
    for sample in range(len(query)):
        tokens = (bev[sample].flatten(1) + cells).T
        for k in range(query.shape[2]):
            q, place = query[sample, :, k][None, None], places[sample, :, k][None, None]
            alone = q + place
            q = model.norm1(q + model.self_attn(alone, alone, alone, need_weights=False)[0])
            patch = tokens[patch_by_loops(row[sample, k].item(), column[sample, k].item(), model.border)][
                None
            ]
            q = model.norm2(q + model.multihead_attn(q + place, patch, patch, need_weights=False)[0])
            q = model.norm3(q + model.linear2(model.linear1(q).relu()))
            rows.append(q[0, 0])
    return torch.stack(rows).view(len(query), query.shape[2], -1).transpose(1, 2)


@BORDERS
@pytest.mark.parametrize("training", [True, False])
def test_the_decoder_layer_is_the_published_one_forward_and_every_gradient(border, training):
    model = QueryDecoder(WIDTH, heads=2, hidden=12, radius=RADIUS, border=border, norm_eps=1e-3).double()
    model.train(training)
    row, column = ROW.expand(2, 5), COLUMN.flip(0).expand(2, 5)
    query = torch.randn(2, WIDTH, 5, dtype=torch.float64, requires_grad=True)
    bev = torch.randn(2, WIDTH, ROWS, COLUMNS, dtype=torch.float64, requires_grad=True)
    at, grid = torch.randn(2, 2, 5).double(), torch.randn(2, ROWS * COLUMNS).double()
    words = (query, at, bev, grid, row, column)
    y, expected = model(*words), decoder_written_out(model, *words)
    torch.testing.assert_close(y, expected)
    probe, inputs = torch.randn_like(y), [query, bev, *model.parameters()]
    got = torch.autograd.grad((y * probe).sum(), inputs)
    for a, b in zip(got, torch.autograd.grad((expected * probe).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)
