"""nuScenes' mAP, errors and NDS on cases whose answer is known by hand, and beside nuScenes' own program."""

import json
import math

import numpy as np
import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.metrics import NUSCENES_CLASSES, NuScenesLabels, nuscenes_metrics
from linzoo.pointcloud.metrics.nuscenes import RANGES
from linzoo.pointcloud.records import Detections

from .metric_cases import found, nuscenes, row_of_boxes

CAR, CONE, BARRIER = ("car",), ("traffic_cone",), ("barrier",)
BOXES = row_of_boxes(4, width=9)  # at 0, 10, 20, 30 m


def score(detections, labels, classes=CAR, right=True, **options):
    """With every attribute right unless said."""
    attributes = [torch.zeros(len(d.boxes), dtype=torch.int64) for d in detections] if right else None
    return nuscenes_metrics(detections, labels, classes=classes, attributes=attributes, **options)


@pytest.mark.parametrize("n", [1, 4])
def test_perfect_detections_score_1_with_no_error(n):
    result = score([found(BOXES[:n])], [nuscenes(BOXES[:n])])
    assert result["mAP"] == pytest.approx(1) and result["NDS"] == pytest.approx(1)
    assert all(error == 0 for error in result["errors"].values())


def test_nothing_found_scores_0_with_every_error_1():
    for detections in (found(BOXES[:0]), found(BOXES + 5)):
        result = score([detections], [nuscenes(BOXES)])
        assert result["mAP"] == result["NDS"] == 0
        assert set(result["errors"].values()) == {1.0}


def test_half_of_the_recall_gives_40_of_the_90_positions():
    assert score([found(BOXES[:2])], [nuscenes(BOXES)])["mAP"] == pytest.approx(40 / 90)


def test_a_false_positive_at_the_top_of_one_object():
    # precision rises in a line from 0 at recall 0 to 1/2 at recall 1; what is above 1/10 counts
    boxes = BOXES[[3, 0]]
    got = score([found(boxes)], [nuscenes(BOXES[:1])])["mAP"]
    want = sum(0.005 * k - 0.1 for k in range(21, 101)) / 90 / 0.9
    assert got == pytest.approx(want)
    assert want == pytest.approx(0.2)


def test_each_distance_has_its_own_precision():
    off = BOXES.clone()
    off[:, 1] += 1.5
    row = score([found(off)], [nuscenes(BOXES)])["classes"]["car"]
    assert [row[f"AP@{d}"] for d in ("0.5", "1", "2", "4")] == pytest.approx([0, 0, 1, 1])
    assert row["AP"] == pytest.approx(0.5)
    assert row["ATE"] == pytest.approx(1.5)


def test_the_nearest_free_object_is_taken_and_none_twice():
    close = BOXES[:2].clone()
    close[1, 0] = 1.0
    detections = found(close + torch.tensor([0.4] + [0] * 8))  # at .4 and 1.4: the nearest, then what is left
    assert score([detections], [nuscenes(close)])["classes"]["car"]["ATE"] == pytest.approx(0.4)
    row = score([found(torch.cat((BOXES[:1], BOXES[:1])))], [nuscenes(BOXES[:1])])["classes"]["car"]
    assert row["AP"] == pytest.approx(
        (89 * 0.9 + 0.4) / 90 / 0.9
    )  # precision 1/2 at recall 1, its last value


@pytest.mark.parametrize(
    ("change", "error", "want"),
    [
        ((0, 0.3), "ATE", 0.3),
        ((2, 5.0), "ATE", 0.0),
        ((3, 4.0), "ASE", 0.5),
        ((6, 0.3), "AOE", 0.3),
        ((6, math.pi), "AOE", math.pi),
        ((6, 2 * math.pi + 0.1), "AOE", 0.1),
        ((7, 0.5), "AVE", 0.5),
        ((8, -3.0), "AVE", 3.0),
    ],
)
def test_each_error_measures_its_own_difference(change, error, want):
    column, amount = change
    moved = BOXES.clone()
    moved[:, column] += amount
    errors = score([found(moved)], [nuscenes(BOXES)])["errors"]
    assert errors.pop(error) == pytest.approx(want)
    assert all(value == pytest.approx(0, abs=1e-12) for value in errors.values())


def test_attributes_count_where_the_object_has_one_and_are_wrong_unless_given():
    labels = [nuscenes(BOXES, attributes=[3, -1, 3, -1])]
    given = [torch.tensor([3, 5, 3, 5])]
    assert nuscenes_metrics([found(BOXES)], labels, classes=CAR, attributes=given)["errors"]["AAE"] == 0
    assert score([found(BOXES)], labels, right=False)["errors"]["AAE"] == 1
    no_labels = [nuscenes(BOXES, attributes=-1)]
    assert nuscenes_metrics([found(BOXES)], no_labels, classes=CAR)["errors"]["AAE"] == 1


def test_errors_are_running_means_read_over_recall():
    # two objects, errors 0 then .8: running mean 0, .4; read between the scores as a line
    moved = BOXES[:2].clone()
    moved[1, 1] += 0.8
    got = score([found(moved, [0.9, 0.5])], [nuscenes(BOXES[:2])])["errors"]["ATE"]
    confidence = np.interp(np.linspace(0, 1, 101), [0.5, 1.0], [0.9, 0.5])
    assert got == pytest.approx(np.interp(-confidence, [-0.9, -0.5], [0.0, 0.4])[11:].mean())


def test_unknown_velocities_are_not_averaged():
    unknown = BOXES.clone()
    unknown[1:, 7:] = math.nan
    moved = BOXES.clone()
    moved[:, 7] += 0.6
    assert score([found(moved)], [nuscenes(unknown)])["errors"]["AVE"] == pytest.approx(0.6)
    assert score([found(BOXES[:, :7])], [nuscenes(BOXES)])["errors"]["AVE"] == 1


def test_cones_have_no_heading_barriers_half_of_one_and_neither_velocity_nor_attribute():
    turned = BOXES[:3].clone()
    turned[:, 6] += math.pi
    cone = score([found(turned)], [nuscenes(BOXES[:3])], CONE)["classes"]["traffic_cone"]
    assert [math.isnan(cone[error]) for error in ("ATE", "ASE", "AOE", "AVE", "AAE")] == [False] * 2 + [
        True
    ] * 3
    barrier = score([found(turned)], [nuscenes(BOXES[:3])], BARRIER)["classes"]["barrier"]
    assert barrier["AOE"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(barrier["AVE"]) and math.isnan(barrier["AAE"])
    both = nuscenes_metrics(
        [found(torch.cat((turned, turned)), classes=[0, 0, 0, 1, 1, 1])],
        [nuscenes(torch.cat((BOXES[:3], BOXES[:3])), classes=[0, 0, 0, 1, 1, 1])],
        classes=("car", "traffic_cone"),
    )
    assert both["errors"]["AOE"] == pytest.approx(math.pi), "cones must not enter the mean"


def test_objects_and_detections_out_of_range_or_without_points_are_left_out():
    far = row_of_boxes(6, width=9)  # the last lies at 50 m, which is out for a car
    assert score([found(far[:5])], [nuscenes(far)])["mAP"] == pytest.approx(1)
    assert score([found(far[[5, 0]])], [nuscenes(far[:1])])["mAP"] == pytest.approx(1)
    assert score([found(BOXES[:1])], [nuscenes(BOXES[:2], num_points=[1, 0])])["mAP"] == pytest.approx(1)
    assert score([found(BOXES)], [nuscenes(BOXES)], CONE)["mAP"] == pytest.approx(1), "30 m is out for a cone"


def test_nds_weighs_map_five_times_and_each_error_once():
    moved = BOXES.clone()
    moved[:, 0] += 0.3
    moved[:, 6] += 0.5
    moved[:, 7] += 4.0  # an error above 1 counts as 1
    result = score([found(moved)], [nuscenes(BOXES)])
    assert result["NDS"] == pytest.approx((5 * 1 + 0.7 + 1 + 0.5 + 0 + 1) / 10)


def test_a_class_that_was_never_labelled_counts_as_0():
    result = score([found(BOXES)], [nuscenes(BOXES)], ("car", "bus"))
    assert result["mAP"] == pytest.approx(0.5)
    assert result["errors"]["ATE"] == pytest.approx(0.5)


def test_samples_may_be_empty_and_the_result_is_plain_numbers():
    result = score([found(BOXES), found(BOXES[:0])], [nuscenes(BOXES), nuscenes(BOXES[:0])])
    assert json.loads(json.dumps(result))["NDS"] == pytest.approx(1)


def random_samples(count: int, seed: int):
    """Detections near labels, with misses, false ones, wrong classes, unknown velocities and attributes."""
    draw = np.random.RandomState(seed)
    detections, labels, attributes = [], [], []
    for _ in range(count):
        n = draw.randint(0, 40)
        boxes = np.concatenate(
            [draw.uniform(-45, 45, (n, 2)), draw.randn(n, 1), draw.uniform(0.3, 5, (n, 3)), draw.randn(n, 3)],
            1,
        )
        boxes[:, 6] = draw.uniform(-9, 9, n)
        classes = draw.randint(0, 10, n)
        noisy = boxes + draw.randn(n, 9) * [0.6, 0.6, 0.1, 0.1, 0.1, 0.1, 0.4, 0.5, 0.5]
        noisy[:, 3:6] = np.abs(noisy[:, 3:6]) + 0.1
        keep = draw.rand(n) < 0.8
        false = boxes[draw.rand(n) < 0.3] + draw.randn(9) * 3 * (np.arange(9) < 2)
        shown = np.concatenate((noisy[keep], false))
        shown_classes = np.concatenate((classes[keep], draw.randint(0, 10, len(false))))
        boxes[draw.rand(n) < 0.2, 7:] = np.nan
        detections.append(Detections(*map(torch.from_numpy, (shown, draw.rand(len(shown)), shown_classes))))
        attributes.append(torch.from_numpy(draw.randint(0, 3, len(shown))))
        columns = (classes, draw.randint(-1, 3, n), draw.randint(0, 6, n))
        columns = dict(
            zip(("classes", "attributes", "num_points"), map(torch.from_numpy, columns), strict=True)
        )
        labels.append(NuScenesLabels(boxes=torch.from_numpy(boxes), **columns))
    return detections, labels, attributes


def devkit_boxes(samples, names, within_range=RANGES):
    """Boxes as the devkit's own, filtered by range and points as its ``filter_eval_boxes`` does."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    out = EvalBoxes()
    for number, (boxes, classes, scores, attributes, points) in enumerate(samples):
        token = f"sample {number}"
        out.add_boxes(token, [])
        for row, label, confidence, attribute, held in zip(
            *(x.tolist() for x in (boxes, classes, scores, attributes, points)), strict=True
        ):
            box = DetectionBox(
                sample_token=token,
                translation=tuple(row[:3]),
                size=(row[4], row[3], row[5]),
                rotation=(math.cos(row[6] / 2), 0.0, 0.0, math.sin(row[6] / 2)),
                velocity=tuple(row[7:9]),
                ego_translation=tuple(row[:3]),
                num_pts=held,
                detection_name=NUSCENES_CLASSES[label],
                detection_score=float(confidence),
                attribute_name="" if attribute < 0 else names[attribute],
            )
            if box.ego_dist < within_range[box.detection_name] and held > 0:
                out.add_boxes(token, [box])
    return out


def test_results_equal_those_of_the_nuscenes_devkit():
    pytest.importorskip(
        "nuscenes.eval.detection.algo", reason="nuscenes-devkit is not installed", exc_type=ImportError
    )
    from nuscenes.eval.common.utils import center_distance
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES

    detections, labels, attributes = random_samples(30, seed=0)
    ours = nuscenes_metrics(detections, labels, attributes=attributes)
    true = devkit_boxes(
        [(x.boxes, x.classes, torch.zeros(len(x.boxes)), x.attributes, x.num_points) for x in labels],
        ATTRIBUTE_NAMES,
    )
    shown = devkit_boxes(
        [
            (x.boxes, x.classes, x.scores, a, torch.ones_like(a))
            for x, a in zip(detections, attributes, strict=True)
        ],
        ATTRIBUTE_NAMES,
    )
    errors = {
        "ATE": "trans_err",
        "ASE": "scale_err",
        "AOE": "orient_err",
        "AVE": "vel_err",
        "AAE": "attr_err",
    }
    for name in NUSCENES_CLASSES:
        row = ours["classes"][name]
        for distance in (0.5, 1.0, 2.0, 4.0):
            data = accumulate(true, shown, name, center_distance, distance)
            assert row[f"AP@{distance:g}"] == pytest.approx(calc_ap(data, 0.1, 0.1), abs=1e-12), (
                name,
                distance,
            )
            if distance == 2.0:
                for error, theirs in errors.items():
                    want = calc_tp(data, 0.1, theirs)
                    assert math.isnan(row[error]) or row[error] == pytest.approx(want, abs=1e-7), (
                        name,
                        error,
                    )
    assert 0.1 < ours["mAP"] < 0.9


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one a frame, got 0 for the detections of 1"):
        nuscenes_metrics([found(BOXES)], [])
    with pytest.raises(ValueError, match=r"labels\[0\].classes must lie in 0\.\.0 \(car\), got \[2\]"):
        nuscenes_metrics([found(BOXES)], [nuscenes(BOXES, classes=2)], classes=CAR)
    with pytest.raises(
        ValueError, match=r"ranges must have a distance for every class, got none for \['tram'\]"
    ):
        nuscenes_metrics([found(BOXES)], [nuscenes(BOXES)], classes=("tram",))
    with pytest.raises(
        ShapeError, match=r"attributes must be one a detection of each sample, got \[\(3,\)\]"
    ):
        nuscenes_metrics([found(BOXES)], [nuscenes(BOXES)], attributes=[torch.zeros(3, dtype=torch.int64)])
    with pytest.raises(ShapeError, match=r"boxes must be \(K, 9\), with velocities, got \(4, 7\)"):
        nuscenes(BOXES[:, :7])
