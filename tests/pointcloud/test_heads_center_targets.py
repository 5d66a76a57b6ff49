"""CenterPoint's targets, losses and decoding against figures of the authors' code and slow plain forms."""

import math

import pytest
import torch

from linzoo.pointcloud.heads import CenterHead, Decoding
from linzoo.pointcloud.heads.cells import MapCells
from linzoo.pointcloud.heads.center_code import cells_of, decode, encode
from linzoo.pointcloud.heads.center_targets import center_targets
from linzoo.pointcloud.heads.gaussians import draw_gaussians, gaussian_radius
from linzoo.pointcloud.losses import gaussian_focal_loss
from linzoo.pointcloud.records import Labels
from linzoo.pointcloud.voxels import VoxelGrid

from ..parity_fill import assert_matches, figures, random
from .head_cases import GRID, STRIDE, assert_same_boxes, no_labels, some_boxes, some_labels

RECORD = figures("pointcloud_heads")
CONFIG = RECORD["center_targets"]["config"]
RECORDED_GRID = VoxelGrid(point_range=tuple(CONFIG["range"]), voxel_size=tuple(CONFIG["voxel_size"]))
RECORDED_CELLS = MapCells(grid=RECORDED_GRID, stride=CONFIG["stride"])
RECORDED_ROWS = torch.tensor(RECORD["center_targets"]["gt_boxes"])
RECORDED_LABELS = Labels(
    RECORDED_ROWS[:, :7], RECORDED_ROWS[:, 7].long() - 1
)  # recorded classes count from 1
CELLS = MapCells(grid=GRID, stride=STRIDE)


def recorded_targets():
    heat = torch.zeros(1, CONFIG["num_classes"], *CONFIG["map"])
    return center_targets([RECORDED_LABELS], heat, RECORDED_CELLS, velocity=False)


def recorded_maps(dim_scale: float = 1.0) -> dict[str, torch.Tensor]:
    shapes = RECORD["center_losses"]["config"]["shapes"]
    heat = random(shapes[0], RECORD["center_losses"]["config"]["heatmap_logits_seed"]).float()
    box = random(shapes[1], RECORD["center_losses"]["config"]["box_map_seed"]).float()
    center, z, dim, rot = box.split((2, 1, 3, 2), dim=1)
    return {"center": center, "center_z": z, "dim": dim_scale * dim, "rot": rot, "hm": heat}


def recorded_head(**words) -> CenterHead:
    return CenterHead(8, classes=("a", "b", "c"), grid=RECORDED_GRID, stride=2, iou=False, **words)


def test_the_recorded_heat_map_is_reproduced():
    heat, record = recorded_targets().heat[0], RECORD["center_targets"]
    assert_matches(heat, record["heatmap"], 1e-6)
    assert int((heat > 0).sum()) == record["heatmap_nonzero"]
    per_class = heat.sum((1, 2))
    torch.testing.assert_close(per_class, torch.tensor(record["heatmap_sum_per_class"]), rtol=1e-6, atol=0)


def test_the_recorded_cells_and_codes_are_reproduced():
    target, record = recorded_targets(), RECORD["center_targets"]
    objects = sum(record["mask"])
    assert (target.row * CONFIG["map"][1] + target.column).tolist() == record["inds"][:objects]
    torch.testing.assert_close(target.code, torch.tensor(record["target_boxes"]), rtol=1e-5, atol=1e-5)


def test_the_recorded_losses_are_reproduced():
    target, raw, record = recorded_targets(), recorded_maps(), RECORD["center_losses"]
    heat = gaussian_focal_loss(raw["hm"], target.heat)
    assert heat.item() == pytest.approx(record["heatmap_loss"], rel=1e-6)
    code = recorded_head().code_at(raw, target.sample, target.row, target.column)
    per_code = (code - target.code).abs().sum(0) / len(code)
    torch.testing.assert_close(per_code, torch.tensor(record["reg_loss_per_code"]), rtol=1e-5, atol=0)


def test_the_heads_loss_is_the_recorded_terms_times_their_weights():
    terms, record = recorded_head().loss(recorded_maps(), [RECORDED_LABELS]), RECORD["center_losses"]
    assert set(terms) == {"heatmap", "box"}
    assert terms["heatmap"].item() == pytest.approx(record["heatmap_loss"], rel=1e-6)
    assert terms["box"].item() == pytest.approx(2 * sum(record["reg_loss_per_code"]), rel=1e-5)


def test_the_recorded_decoding_is_reproduced():
    record = RECORD["center_decode"]
    wanted = record["config"]
    limits = Decoding(top=wanted["K"], score=wanted["score_thresh"], limit=tuple(wanted["limit"]))
    (found,) = recorded_head(decoding=limits).peaks(recorded_maps(0.3))
    torch.testing.assert_close(found.boxes, torch.tensor(record["boxes"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.scores, torch.tensor(record["scores"]))
    assert found.classes.tolist() == record["labels"]


def radius_by_hand(h: float, w: float) -> int:
    roots = []
    for a, b, c in (
        (1, h + w, w * h * 0.9 / 1.1),
        (4, 2 * (h + w), 0.9 * w * h),
        (0.4, -0.2 * (h + w), -0.9 * w * h),
    ):
        roots.append((b + math.sqrt(b * b - 4 * a * c)) / 2)
    return max(2, int(min(roots)))


def heat_by_loops(labels: list[Labels], classes: int, cells: MapCells) -> torch.Tensor:
    """Cell by cell over every box, in double precision."""
    height, width = cells.shape
    heat = torch.zeros(len(labels), classes, height, width, dtype=torch.float64)
    for sample, (boxes, kinds) in enumerate(labels):
        for box, kind in zip(boxes.tolist(), kinds.tolist(), strict=True):
            u = min(max((box[0] - cells.grid.point_range[0]) / cells.size[0], 0), width - 0.5)
            v = min(max((box[1] - cells.grid.point_range[1]) / cells.size[1], 0), height - 0.5)
            r = radius_by_hand(box[3] / cells.size[0], box[4] / cells.size[1])
            sigma = (2 * r + 1) / 6
            for row in range(max(0, int(v) - r), min(height, int(v) + r + 1)):
                for column in range(max(0, int(u) - r), min(width, int(u) + r + 1)):
                    away = (row - int(v)) ** 2 + (column - int(u)) ** 2
                    value = math.exp(-away / (2 * sigma**2))
                    heat[sample, kind, row, column] = max(heat[sample, kind, row, column], value)
    return heat


def test_the_heat_map_is_the_one_drawn_by_loops():
    labels = [some_labels(12, 1), no_labels(), some_labels(30, 2)]
    labels[0].boxes[0, :2] = torch.tensor([100.0, -100.0])  # off the map, each way
    labels[0].boxes[1, :2] = torch.tensor([-100.0, 100.0])
    labels[2].boxes[3, 3:5] = torch.tensor([15.0, 9.0])  # reaches over the borders
    heat = torch.zeros(3, 3, *CELLS.shape, dtype=torch.float64)
    drawn = center_targets(labels, heat, CELLS, velocity=False).heat
    torch.testing.assert_close(drawn, heat_by_loops(labels, 3, CELLS), rtol=1e-12, atol=0)


def test_drawing_in_chunks_gives_the_same_map(monkeypatch):
    draw = torch.randint(0, 12, (40, 3))
    words = (draw[:, 0] % 2, draw[:, 1], draw[:, 2], draw[:, 0], torch.zeros(2, 10, 11))
    whole = draw_gaussians(*words)
    monkeypatch.setattr("linzoo.pointcloud.heads.gaussians.CHUNK", 1)
    assert torch.equal(draw_gaussians(*words), whole)


def test_the_radius_is_the_published_codes_not_the_quadratic_formulas():
    w, h = torch.rand(2, 200, dtype=torch.float64) * 60
    got = gaussian_radius(w, h)
    assert got.tolist() == [radius_by_hand(a, b) for a, b in zip(h.tolist(), w.tolist(), strict=True)]
    square = torch.tensor([20.0])
    third = (-0.8 * 20 / 2 + math.sqrt((0.8 * 20 / 2) ** 2 + 4 * 0.4 * 0.9 * 400)) / (2 * 0.4)
    assert gaussian_radius(square, square).item() != int(third)


@pytest.mark.parametrize("columns", [7, 9])
def test_encoding_and_decoding_give_the_box_back_at_every_yaw(columns):
    boxes = some_boxes(60, 3, columns)
    boxes[:, 6] = torch.linspace(-7, 7, 60)
    at, cell = cells_of(boxes, CELLS)
    assert_same_boxes(decode(encode(boxes, at - cell), cell, CELLS), boxes)


def test_a_turn_by_half_changes_the_code_a_full_turn_does_not():
    boxes = some_boxes(5, 4)
    turned, around = boxes.clone(), boxes.clone()
    turned[:, 6] += math.pi
    around[:, 6] += 2 * math.pi
    code, offset = encode(boxes, torch.zeros(5, 2)), torch.zeros(5, 2)
    torch.testing.assert_close(encode(turned, offset)[:, 6:8], -code[:, 6:8], atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(around, offset), code, atol=1e-5, rtol=0)


def test_the_map_has_y_along_rows_and_x_along_columns():
    box = torch.tensor([[3.1, -2.4, 0.0, 1.0, 1.0, 1.0, 0.0]])
    labels = [Labels(box, torch.tensor([1]))]
    target = center_targets(labels, torch.zeros(1, 3, *CELLS.shape), CELLS, velocity=False)
    row, column = int((-2.4 + 4) / 0.5), int((3.1 + 8) / 0.5)
    assert (target.row.item(), target.column.item()) == (row, column)
    assert (target.heat[0] == 1).nonzero().tolist() == [[1, row, column]]


def test_more_than_500_boxes_are_not_looked_at_and_flat_ones_neither():
    boxes, kinds = some_boxes(1, 0).repeat(502, 1), torch.zeros(502, dtype=torch.int64)
    boxes[7, 4] = 0
    target = center_targets([Labels(boxes, kinds)], torch.zeros(1, 1, *CELLS.shape), CELLS, velocity=False)
    assert len(target.code) == 499
