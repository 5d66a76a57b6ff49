"""The scores of synthetic scenes on cases whose answer is known by hand."""

import json
import math

import pytest
import torch

from linzoo.pointcloud.metrics import CountedLabels, count_points, synthetic_metrics
from linzoo.pointcloud.records import Labels

from .metric_cases import counted, found, row_of_boxes

CLASSES, IOU = ("car", "pedestrian"), {"car": 0.7, "pedestrian": 0.5}
BOXES = row_of_boxes(4)


def score(detections, labels, **options):
    return synthetic_metrics(detections, labels, classes=CLASSES, iou=IOU, **options)


def car(detections, labels, level="hard", **options):
    return score(detections, labels, **options)["classes"]["car"][level]


def test_perfect_detections():
    assert car([found(BOXES)], [counted(BOXES)]) == {
        "ap_3d": 100.0,
        "ap_bev": 100.0,
        "recall": 100.0,
        "centre_error": 0.0,
        "yaw_error_pi": 0.0,
        "yaw_error_2pi": 0.0,
        "objects": 4,
        "matched": 4,
    }


@pytest.mark.parametrize(
    ("turn", "half", "whole"), [(10, 10, 10), (180, 0, 180), (170, 10, 170), (-95, 85, 95), (725, 5, 5)]
)
def test_yaw_error_modulo_a_half_and_a_whole_turn(turn, half, whole):
    turned = BOXES.clone()
    turned[:, 6] += math.radians(turn)
    row = car([found(turned)], [counted(BOXES)])
    assert row["yaw_error_pi"] == pytest.approx(half, abs=1e-9)
    assert row["yaw_error_2pi"] == pytest.approx(whole, abs=1e-9)
    assert row["recall"] == 100.0, "a wrong heading is no missing box"


def test_centre_error_is_metres_in_three_dimensions_and_matching_in_two():
    moved = BOXES.clone()
    moved[:, 0] += 0.3
    moved[:, 2] += 0.4
    row = car([found(moved)], [counted(BOXES)])
    assert row["centre_error"] == pytest.approx(0.5)
    moved[:, 2] += 5
    assert car([found(moved)], [counted(BOXES)])["matched"] == 4
    moved[:, 0] += 0.8
    row = car([found(moved)], [counted(BOXES)])
    assert row["matched"] == 0 and row["recall"] == 0 and math.isnan(row["centre_error"])
    assert car([found(moved)], [counted(BOXES)], distance=1.2)["matched"] == 4


def test_height_off_the_ground_counts_in_3d_only():
    moved = BOXES.clone()
    moved[:, 2] += 0.5
    row = car([found(moved)], [counted(BOXES)])
    assert (row["ap_3d"], row["ap_bev"]) == (0.0, 100.0)


def test_recall_and_errors_look_at_sure_detections_and_precision_at_all():
    row = car([found(BOXES, [0.9, 0.3, 0.2, 0.1])], [counted(BOXES)])
    assert (row["ap_3d"], row["recall"], row["matched"]) == (100.0, 50.0, 2)
    assert car([found(BOXES, [0.9, 0.3, 0.2, 0.1])], [counted(BOXES)], min_score=0.0)["recall"] == 100.0


def test_levels_count_objects_by_their_points_and_ignore_the_others():
    labels = [counted(BOXES, num_points=[100, 99, 29, 4])]
    rows = score([found(BOXES[:1])], labels)["classes"]["car"]
    assert [rows[level]["objects"] for level in ("easy", "moderate", "hard")] == [1, 2, 3]
    assert [rows[level]["recall"] for level in ("easy", "moderate", "hard")] == pytest.approx(
        [100, 50, 100 / 3]
    )
    rows = score([found(BOXES.flip(0))], labels, levels={"dense": 50})["classes"]["car"]
    assert rows == {"dense": {**car([found(BOXES[:2])], [counted(BOXES[:2])])}}


def test_classes_are_scored_apart_and_averaged_where_they_are_numbers():
    labels = [counted(BOXES, classes=[0, 0, 1, 1])]
    result = score([found(BOXES[:3], classes=[0, 0, 1])], labels)
    assert result["classes"]["car"]["hard"]["ap_3d"] == 100.0
    assert result["classes"]["pedestrian"]["hard"]["ap_3d"] == 50.0
    mean = result["mean"]["hard"]
    assert (mean["ap_3d"], mean["recall"], mean["objects"], mean["matched"]) == (75.0, 75.0, 4, 3)
    only_cars = score([found(BOXES)], [counted(BOXES)])
    assert math.isnan(only_cars["classes"]["pedestrian"]["hard"]["ap_3d"])
    assert only_cars["mean"]["hard"]["ap_3d"] == 100.0


def test_a_detection_of_another_class_finds_nothing():
    row = car([found(BOXES, classes=[1] * 4)], [counted(BOXES)])
    assert row["ap_bev"] == row["recall"] == 0.0


def test_empty_frames_and_plain_numbers():
    none = row_of_boxes(0)
    result = score([found(BOXES), found(none)], [counted(BOXES), counted(none)])
    assert json.loads(json.dumps(result))["mean"]["easy"]["recall"] == 100.0


def test_points_are_counted_in_each_box():
    points = torch.tensor([[0.0, 0, 0, 0.5], [1, 0, 0, 0.5], [10, 0, 0, 0.5], [5, 0, 0, 0.5]])
    labels = count_points(Labels(BOXES.float(), torch.zeros(4, dtype=torch.int64)), points)
    assert isinstance(labels, CountedLabels) and labels.num_points.tolist() == [2, 1, 0, 0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one a frame, got 0 for the detections of 1"):
        score([found(BOXES)], [])
    with pytest.raises(
        ValueError, match=r"labels\[0\].classes must lie in 0\.\.1 \(car, pedestrian\), got \[2\]"
    ):
        score([found(BOXES)], [counted(BOXES, classes=2)])
    with pytest.raises(
        ValueError, match=r"iou must have a threshold for every class, got none for \['car'\]"
    ):
        synthetic_metrics([found(BOXES)], [counted(BOXES)], classes=CLASSES, iou={"pedestrian": 0.5})
    with pytest.raises(ValueError, match=r"distance must be metres > 0, got 0"):
        score([found(BOXES)], [counted(BOXES)], distance=0)
