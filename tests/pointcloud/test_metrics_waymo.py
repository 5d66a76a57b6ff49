"""The unofficial AP and APH in Waymo's manner, on cases whose answer is known by hand."""

import json
import math

import pytest
import torch

from linzoo.pointcloud import metrics
from linzoo.pointcloud.metrics import unofficial_waymo_ap

from .metric_cases import counted, found, row_of_boxes

BOXES = row_of_boxes(4)


def vehicle(detections, labels):
    return unofficial_waymo_ap(detections, labels)["vehicle"]


def test_perfect_detections_score_100():
    result = vehicle([found(BOXES)], [counted(BOXES)])
    assert result == {"L1": {"AP": 100.0, "APH": 100.0}, "L2": {"AP": 100.0, "APH": 100.0}}


def test_l1_counts_objects_with_more_than_5_points_and_l2_those_with_any():
    labels = [counted(BOXES, num_points=[6, 5, 1, 0])]
    result = vehicle([found(BOXES[:1])], labels)
    assert result["L1"]["AP"] == 100.0
    assert result["L2"]["AP"] == pytest.approx(100 / 3)
    # finding the others first costs nothing where they do not count
    result = vehicle([found(BOXES.flip(0))], labels)
    assert result["L1"]["AP"] == result["L2"]["AP"] == 100.0


@pytest.mark.parametrize(
    ("turn", "share"), [(0, 1), (math.pi / 4, 0.75), (math.pi, 0), (-math.pi, 0), (2 * math.pi, 1)]
)
def test_aph_weighs_hits_by_their_heading(turn, share):
    turned = row_of_boxes(4, size=(2.0, 2.0, 2.0))
    straight = turned.clone()
    turned[:, 6] += turn
    result = vehicle([found(turned)], [counted(straight)])["L2"]
    assert result["AP"] == 100.0
    assert result["APH"] == pytest.approx(100 * share, abs=1e-9)


def test_a_false_positive_at_the_top_and_half_of_the_recall():
    boxes = torch.cat((row_of_boxes(1, start=500.0), BOXES[:2]))
    # best precision 2/3 up to recall 1/2, nothing above
    assert vehicle([found(boxes)], [counted(BOXES)])["L2"]["AP"] == pytest.approx(100 / 3)


def test_an_overlap_of_just_the_threshold_is_right_and_classes_have_their_own():
    thin = row_of_boxes(3, size=(3.0, 1.0, 1.0))
    shifted = thin.clone()
    shifted[:, 0] += 1.0  # IoU 2 / 4
    result = unofficial_waymo_ap([found(shifted, classes=[0, 1, 2])], [counted(thin, classes=[0, 1, 2])])
    assert [result[name]["L2"]["AP"] for name in ("vehicle", "pedestrian", "cyclist")] == [0, 100, 100]


def test_empty_frames_and_plain_numbers():
    none = row_of_boxes(0)
    result = unofficial_waymo_ap([found(BOXES), found(none)], [counted(BOXES), counted(none)])
    assert json.loads(json.dumps(result))["vehicle"]["L1"]["AP"] == 100.0
    assert math.isnan(result["cyclist"]["L1"]["AP"])


def test_name_and_text_say_that_it_is_unofficial():
    assert not [name for name in metrics.__all__ if "waymo" in name and not name.startswith("unofficial")]
    assert "UNOFFICIAL" in unofficial_waymo_ap.__doc__


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one a frame, got 0 for the detections of 1"):
        unofficial_waymo_ap([found(BOXES)], [])
    with pytest.raises(ValueError, match=r"labels\[0\].classes must lie in 0\.\.2 \(vehicle, .*got \[5\]"):
        unofficial_waymo_ap([found(BOXES)], [counted(BOXES, classes=5)])
    with pytest.raises(
        ValueError, match=r"iou must have a threshold for every class, got none for \['sign'\]"
    ):
        unofficial_waymo_ap([found(BOXES)], [counted(BOXES)], classes=("sign",))
