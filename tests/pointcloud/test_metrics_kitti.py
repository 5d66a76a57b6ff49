"""KITTI AP40 on cases whose answer is known by hand."""

import json
import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import overlaps_3d, overlaps_bev
from linzoo.pointcloud.metrics import KittiLabels, kitti_ap, kitti_difficulty

from .metric_cases import found, kitti, row_of_boxes

CARS = row_of_boxes(4)


def car(detections, labels, **options):
    """Percent for cars at moderate difficulty: BEV, 3D."""
    result = kitti_ap(detections, labels, **options)["Car"]
    return result["bev"]["moderate"], result["3d"]["moderate"]


@pytest.mark.parametrize("n", [1, 4, 40, 60])
def test_perfect_detections_score_100_however_few(n):
    boxes = row_of_boxes(n)
    result = kitti_ap([found(boxes)], [kitti(boxes)])["Car"]
    assert all(value == 100.0 for metric in result.values() for value in metric.values())


def test_a_false_positive_at_the_top_halves_the_precision_of_the_first_object():
    # ranking: wrong, right, right, right, right -> best precision at every recall is 4/5
    boxes = torch.cat((row_of_boxes(1, start=500.0), CARS))
    assert car([found(boxes)], [kitti(CARS)]) == pytest.approx((80.0, 80.0))
    # one object: precision 1/2 everywhere
    assert car([found(boxes[:2])], [kitti(CARS[:1])]) == pytest.approx((50.0, 50.0))


def test_a_false_positive_at_the_bottom_costs_nothing():
    boxes = torch.cat((CARS, row_of_boxes(1, start=500.0)))
    assert car([found(boxes)], [kitti(CARS)]) == (100.0, 100.0)


def test_half_of_the_recall_is_half_of_the_score():
    assert car([found(CARS[:2])], [kitti(CARS)]) == (50.0, 50.0)


def test_precision_is_the_best_at_this_recall_or_a_higher_one():
    # right, wrong, right: precision 1, 1/2, 2/3 -> 1 up to recall 1/2, 2/3 above
    boxes = torch.cat((CARS[:1], row_of_boxes(1, start=500.0), CARS[1:2]))
    assert car([found(boxes)], [kitti(CARS[:2])])[1] == pytest.approx(100 * (20 + 20 * 2 / 3) / 40)


def test_detections_of_equal_score_enter_together_in_any_order():
    boxes = torch.cat((CARS[:1], row_of_boxes(1, start=500.0)))
    for order in ([0, 1], [1, 0]):
        assert car([found(boxes[order], [0.5, 0.5])], [kitti(CARS[:1])])[1] == pytest.approx(50.0)


def test_frames_share_one_ranking_and_only_their_own_objects():
    frames = [found(CARS[:1], [0.9]), found(CARS[1:2], [0.8])]
    assert car(frames, [kitti(CARS[:1]), kitti(CARS[1:2])]) == (100.0, 100.0)
    assert car(frames, [kitti(CARS[1:2]), kitti(CARS[:1])]) == (0.0, 0.0)


def test_a_second_detection_of_an_object_is_wrong():
    twice = torch.cat((CARS[:1], CARS[:1]))
    assert car([found(twice)], [kitti(CARS[:1])])[1] == 100.0  # it ranks below the right one
    both = torch.cat((twice, CARS[1:2]))  # right, wrong, right of 2
    assert car([found(both)], [kitti(CARS[:2])])[1] == pytest.approx(100 * (20 + 20 * 2 / 3) / 40)


def test_height_off_the_ground_is_wrong_in_3d_and_right_in_bev():
    lifted = CARS.clone()
    lifted[:, 2] += 0.5
    assert car([found(lifted)], [kitti(CARS)]) == (100.0, 0.0)


def test_the_overlap_must_exceed_the_threshold_of_the_class():
    shifted = CARS.clone()
    shifted[:, 0] += 0.8  # IoU 3.2 / 4.8 = .667
    assert car([found(shifted)], [kitti(CARS)]) == (0.0, 0.0)
    iou = {"Car": 0.66, "Pedestrian": 0.5, "Cyclist": 0.5}
    assert car([found(shifted)], [kitti(CARS)], iou=iou) == (100.0, 100.0)
    cyclists = kitti_ap([found(shifted, classes=[2] * 4)], [kitti(CARS, "Cyclist")])
    assert cyclists["Cyclist"]["3d"]["easy"] == 100.0
    assert math.isnan(cyclists["Car"]["3d"]["easy"])


def test_objects_beyond_a_difficulty_neither_help_nor_hurt():
    labels = [kitti(CARS, difficulty=[0, 1, 2, 3])]
    for detections, want in ((CARS, (100, 100, 100)), (CARS[:1], (100, 50, 100 / 3))):
        result = kitti_ap([found(detections)], labels)["Car"]["3d"]
        # recall 1/3 is reached by 13 of the 40 positions
        want = (want[0], want[1], want[2] if want[2] == 100 else 100 * 13 / 40)
        assert tuple(result.values()) == pytest.approx(want)


@pytest.mark.parametrize("name", ["Van", "DontCare", "Tram"])
def test_a_van_is_ignored_for_cars_and_other_classes_are_not_there(name):
    labels = [kitti(CARS[:2], ["Car", name])]
    assert car([found(CARS[:1])], labels)[1] == 100.0
    on_top = car([found(CARS[:2], [0.5, 0.9])], labels)[1]
    assert on_top == (100.0 if name == "Van" else pytest.approx(50.0))


def test_a_second_detection_of_an_ignored_object_is_wrong():
    labels = [kitti(CARS[:2], ["Car", "Van"])]
    boxes = torch.cat((CARS[1:2], CARS[1:2], CARS[:1]))
    assert car([found(boxes)], labels)[1] == pytest.approx(50.0)


def test_a_detection_takes_a_counted_object_before_an_ignored_one():
    boxes = torch.cat((CARS[:1], CARS[:1]))
    boxes[0, 0] += 0.1  # the ignored object fits better
    labels = [kitti(boxes, difficulty=[0, 3])]
    assert car([found(CARS[:1])], labels)[1] == 100.0


def test_dont_care_rows_may_hold_anything():
    boxes = torch.cat((CARS[:1], torch.full((1, 7), -1000.0).double(), torch.full((1, 7), math.nan).double()))
    assert car([found(CARS[:1])], [kitti(boxes, ["Car", "DontCare", "DontCare"])])[1] == 100.0


def test_detections_too_low_in_the_picture_are_left_out():
    boxes = torch.cat((row_of_boxes(1, start=500.0), CARS[:1]))
    detections = found(boxes)
    result = kitti_ap([detections], [kitti(CARS[:1])], heights=[torch.tensor([30.0, 60.0])])["Car"]["3d"]
    assert list(result.values()) == pytest.approx([100.0, 50.0, 50.0])
    result = kitti_ap([detections], [kitti(CARS[:1])], heights=[torch.tensor([24.0, 60.0])])["Car"]["3d"]
    assert list(result.values()) == pytest.approx([100.0, 100.0, 100.0])


def test_difficulty_follows_height_occlusion_and_truncation():
    facts = [
        ((41, 0, 0.15), 0),
        ((40, 0, 0.0), 1),
        ((41, 1, 0.0), 1),
        ((41, 0, 0.16), 1),
        ((26, 2, 0.3), 2),
        ((26, 0, 0.5), 2),
        ((25, 0, 0.0), 3),
        ((100, 3, 0.0), 3),
        ((100, 0, 0.51), 3),
    ]
    columns = torch.tensor([fact for fact, _ in facts], dtype=torch.float64).unbind(1)
    assert kitti_difficulty(*columns).tolist() == [level for _, level in facts]


def test_heading_similarity_grades_the_hits_of_3d():
    for turn, share in ((0.0, 1.0), (math.pi, 0.0), (2 * math.pi, 1.0)):
        turned = CARS.clone()
        turned[:, 6] += turn
        result = kitti_ap([found(turned)], [kitti(CARS)])["Car"]
        assert result["3d"]["hard"] == 100.0
        assert result["ahs"]["hard"] == pytest.approx(100.0 * share)
    mixed = CARS.clone()
    mixed[2:, 6] += math.pi  # two right, then two the wrong way round: 2 of 4 at full recall
    want = 100 * (20 + 10 * 2 / 3 + 10 * 2 / 4) / 40
    assert kitti_ap([found(mixed)], [kitti(CARS)])["Car"]["ahs"]["hard"] == pytest.approx(want)


def test_sampled_recall_cannot_reach_100_with_40_objects_and_does_with_41():
    # The program appends one score per object and drops the first position: 39 of 40 are left.
    for n, want in ((1, 0.0), (4, 7.5), (40, 97.5), (41, 100.0), (200, 100.0)):
        boxes = row_of_boxes(n)
        got = car([found(boxes, torch.linspace(0.9, 0.1, n).tolist())], [kitti(boxes)], recall="sampled")
        assert got == pytest.approx((want, want)), n


def test_sampled_and_exact_recall_agree_for_many_objects():
    boxes = row_of_boxes(400)
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(400, generator=draw)
    shown = boxes.clone()
    shown[torch.rand(400, generator=draw) > scores, 0] += 3  # the surer, the more often right
    exact, sampled = (
        car([found(shown, scores.tolist())], [kitti(boxes)], recall=recall)[1]
        for recall in ("exact", "sampled")
    )
    assert 20 < exact < 80
    assert sampled == pytest.approx(exact, abs=1.5)


def slow_program(overlaps, scores, ignored, least):
    """KITTI's program for one class and level: matches anew at every sampled score, objects choosing.

    Args: one (D, G) and (D,) list, and (G,) tensor, a frame.
    """

    def hits(threshold, by_score):
        right, wrong, found_at = 0, 0, []
        for likeness, score, ignore in zip(overlaps, scores, ignored, strict=True):
            free = [d for d in range(len(score)) if score[d] >= threshold]
            for g in range(len(ignore)):
                fits = [d for d in free if likeness[d][g] > least]
                if fits:
                    best = max(fits, key=lambda d: score[d] if by_score else likeness[d][g])
                    free.remove(best)
                    if not ignore[g]:
                        right += 1
                        found_at.append(score[best])
            wrong += len(free)
        return right, wrong, sorted(found_at, reverse=True)

    total = sum(int((~ignore).sum()) for ignore in ignored)
    at, picked, wanted = hits(-1, True)[2], [], 0.0
    for number, score in enumerate(at):
        here, last = (number + 1) / total, number == len(at) - 1
        after = here if last else (number + 2) / total
        if not last and after - wanted < wanted - here:
            continue
        picked.append(score)
        wanted += 1 / 40
    precision = [0.0] * 41
    for place, threshold in enumerate(picked):
        right, wrong, _ = hits(threshold, False)
        precision[place] = right / (right + wrong)
    return 100 * sum(max(precision[place:]) for place in range(1, 41)) / 40


@pytest.mark.parametrize("seed", range(3))
def test_sampled_recall_equals_kittis_program_written_out(seed):
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=draw)

    frames = []
    for _ in range(25):
        objects = row_of_boxes(6)
        shown = objects.repeat(2, 1)[uniform(12) < 0.6]
        shown = shown + (uniform(len(shown), 7) - 0.5) * torch.tensor([1.0, 0.5, 0.2, 0, 0, 0, 0.3])
        false = row_of_boxes(3, start=1000.0)[uniform(3) < 0.4]
        shown = torch.cat((shown, false))
        difficulty = (uniform(6) * 4).long().tolist()
        names = ["Van" if chance < 0.2 else "Car" for chance in uniform(6)]
        frames.append((shown, uniform(len(shown)), kitti(objects, names, difficulty)))
    detections = [found(shown, scores.tolist()) for shown, scores, _ in frames]
    got = kitti_ap(detections, [labels for *_, labels in frames], recall="sampled")["Car"]
    for metric, overlap in (("bev", overlaps_bev), ("3d", overlaps_3d)):
        overlaps = [overlap(shown, labels.boxes).tolist() for shown, _, labels in frames]
        for rank, level in enumerate(("easy", "moderate", "hard")):
            want = slow_program(
                overlaps,
                [x.scores.tolist() for x in detections],
                [
                    (labels.difficulty > rank) | torch.tensor([n != "Car" for n in labels.names])
                    for *_, labels in frames
                ],
                0.7,
            )
            assert 5 < want < 95
            assert got[metric][level] == pytest.approx(want, abs=1e-9), (metric, level)


def test_frames_may_be_empty_and_the_result_is_plain_numbers():
    none = row_of_boxes(0)
    assert car([found(CARS), found(none)], [kitti(CARS), kitti(none)]) == (100.0, 100.0)
    assert car([found(none)], [kitti(CARS)]) == (0.0, 0.0)
    empty = kitti_ap([found(none)], [kitti(none)])
    assert all(math.isnan(value) for metric in empty["Car"].values() for value in metric.values())
    assert json.loads(json.dumps(kitti_ap([found(CARS)], [kitti(CARS)])))["Car"]["3d"]["easy"] == 100.0


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one a frame, got 2 for the detections of 1"):
        kitti_ap([found(CARS)], [kitti(CARS)] * 2)
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.2 \(Car, .*got \[3\]"):
        kitti_ap([found(CARS, classes=[3] * 4)], [kitti(CARS)])
    with pytest.raises(
        ValueError, match=r"iou must have a threshold for every class, got none for \['Tram'\]"
    ):
        kitti_ap([found(CARS)], [kitti(CARS)], classes=("Car", "Tram"))
    with pytest.raises(ValueError, match=r"recall must be 'exact' or 'sampled', got 'r11'"):
        kitti_ap([found(CARS)], [kitti(CARS)], recall="r11")
    with pytest.raises(
        ShapeError, match=r"heights must be one a detection of each frame, got shapes \[\(3,\)\]"
    ):
        kitti_ap([found(CARS)], [kitti(CARS)], heights=[torch.ones(3)])
    with pytest.raises(ValueError, match=r"detections\[0\].scores must be finite"):
        kitti_ap([found(CARS, [0.1, math.nan, 0.2, 0.3])], [kitti(CARS)])
    with pytest.raises(ValueError, match=r"detections\[0\].boxes must be finite, got row 0"):
        kitti_ap([found(CARS * math.nan)], [kitti(CARS)])
    with pytest.raises(ValueError, match=r"dx, dy, dz > 0"):
        kitti_ap([found(CARS * 0)], [kitti(CARS)])
    with pytest.raises(ShapeError, match=r"names must be one a box \(4\), got 3"):
        KittiLabels(boxes=CARS, names=["Car"] * 3, difficulty=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"difficulty must be \(4,\) int64, got \(4,\) torch.float32"):
        KittiLabels(boxes=CARS, names=["Car"] * 4, difficulty=torch.zeros(4))
