"""The demo's detection part: scenes, a training that can be stopped, what is measured and shown."""

import json

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")

import torch

from linzoo.tools.demo import PARTS, detection, detection_page, worker
from linzoo.tools.demo.context import Context
from linzoo.tools.demo.detection_point import measure
from linzoo.tools.demo.detection_scenes import CLASSES, SEEN, UNSEEN, Scenes
from linzoo.tools.demo.store import PartStore

SETTINGS = detection.settings(quick=True)["detector"] | {
    "dims": [8, 16, 16],
    "channels": 16,
    "test_scenes": 2,
}


def test_the_demo_has_the_part():
    assert "detection" in PARTS and detection.NAME == "detection"


def test_a_box_is_the_smallest_that_holds_its_object():
    """What differs from the texture fills every box to its edges, and nothing else."""
    scenes = Scenes(96, ("gravel",), most=2)
    for number in range(6):
        scene = scenes[3, number]
        changed = np.zeros((96, 96), bool)
        texture = scenes.textures[0]
        rng = np.random.default_rng((3, number))
        rng.integers(1)  # the texture's index
        y, x = rng.integers(0, np.array(texture.shape[:2]) - 96)
        changed = (scene.pixels != texture[y : y + 96, x : x + 96]).any(2)
        for x0, y0, x1, y1 in scene.boxes.astype(int):
            rows, columns = np.nonzero(changed[y0:y1, x0:x1])
            assert (rows.min(), columns.min()) <= (1, 1)
            assert rows.max() >= y1 - y0 - 2 and columns.max() >= x1 - x0 - 2
            changed[y0:y1, x0:x1] = False
        assert not changed.any()
        assert len(scene.boxes) == len(scene.labels) >= 1


def test_a_number_makes_the_same_scene_and_another_number_another():
    scenes = Scenes(64, SEEN)
    first, again, other = scenes[0, 0, 1], Scenes(64, SEEN)[0, 0, 1], scenes[0, 0, 2]
    assert (first.pixels == again.pixels).all() and (first.boxes == again.boxes).all()
    assert (first.pixels != other.pixels).any()


def test_boxes_lie_within_the_scene_and_apart_and_every_class_comes_up():
    scenes, seen = Scenes(96, SEEN), set()
    for number in range(40):
        scene = scenes[1, number]
        seen |= set(scene.labels.tolist())
        boxes = torch.from_numpy(scene.boxes)
        assert boxes.min() >= 0 and boxes.max() <= 96
        assert (boxes[:, 2:] - boxes[:, :2]).min() > 10
        for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            for u0, v0, u1, v1 in boxes[i + 1 :].tolist():
                assert x0 >= u1 or u0 >= x1 or y0 >= v1 or v0 >= y1
    assert seen == set(range(len(CLASSES)))


def test_testing_uses_a_texture_that_training_does_not():
    assert not set(SEEN) & set(UNSEEN)


# training


@pytest.fixture
def training():
    pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")
    from linzoo.tools.demo import detection_training

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield detection_training
    torch.use_deterministic_algorithms(False)


def test_every_stage_of_the_detector_mixes_linearly(training):
    model, _ = training.build(SETTINGS)
    assert set(model.backbone.body.model.mixers) == {"rala"}


def test_a_stopped_training_goes_on_to_the_same_losses_and_boxes(training, tmp_path, monkeypatch):
    whole = training.train(SETTINGS, PartStore(tmp_path / "whole", SETTINGS))
    steps, real = [], training.train_step

    def stops(*args):
        if len(steps) == 3:  # of four; a checkpoint is written after every second
            raise KeyboardInterrupt
        steps.append(args[3])
        return real(*args)

    monkeypatch.setattr(training, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        training.train(SETTINGS, PartStore(tmp_path / "stopped", SETTINGS))
    monkeypatch.setattr(training, "train_step", lambda *args: steps.append(args[3]) or real(*args))
    gone_on = training.train(SETTINGS, PartStore(tmp_path / "stopped", SETTINGS))
    assert steps == [0, 1, 2, 2, 3]
    assert gone_on["losses"] == whole["losses"] and len(whole["losses"]) == 4
    assert gone_on["found"] == whole["found"] and gone_on["ap"] == whole["ap"]
    state = [
        torch.load(tmp_path / run / "detector.pt", weights_only=True)["model"] for run in ("whole", "stopped")
    ]
    assert all(torch.equal(state[0][key], state[1][key]) for key in state[0])


def test_a_finished_training_is_not_repeated(training, tmp_path, monkeypatch):
    store = PartStore(tmp_path, SETTINGS)
    store.put("detector", {"ap": {"": 0.5}})
    monkeypatch.setattr(training, "build", None)
    assert training.train(SETTINGS, store) == {"ap": {"": 0.5}}


def test_average_precision_is_1_for_the_right_boxes_0_for_none_and_counts_a_wrong_class_as_wrong(training):
    from mmengine.structures import InstanceData

    scenes = training.test_scenes(SETTINGS | {"test_scenes": 6})

    def results(change):
        found = []
        for number, scene in enumerate(scenes):
            boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
            boxes, labels = change(boxes, labels)
            pred = InstanceData(bboxes=boxes, labels=labels, scores=torch.full((len(labels),), 0.9))
            truth = [
                {"bbox": box, "bbox_label": label}
                for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True)
            ]
            shape = scene.pixels.shape[:2]
            found.append({"img_id": number, "ori_shape": shape, "pred_instances": pred, "instances": truth})
        return training.average_precision(found)

    assert results(lambda boxes, labels: (boxes, labels)) == {"": 1.0, "_50": 1.0, "_75": 1.0}
    assert results(lambda boxes, labels: (boxes, (labels + 1) % 3))["_50"] < 0.2
    assert results(lambda boxes, labels: (boxes[:0], labels[:0])) == {"": 0.0, "_50": 0.0, "_75": 0.0}
    smaller = results(lambda boxes, labels: (boxes * 1.0 + torch.tensor([0, 0, -4.0, -4.0]), labels))
    assert smaller["_50"] == 1.0 and smaller[""] < 1.0


# the backbone


@pytest.mark.parametrize("mixers", ["linear", "published", "softmax"])
def test_a_point_is_of_the_mixers_and_the_size_that_were_asked_for(mixers, monkeypatch):
    import timm

    made, real = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    point = measure("nalaformer_xt", mixers, 64, 128)
    want = {
        "linear": ["nala"] * 4,
        "softmax": ["nala_softmax"] * 4,
        "published": ["nala"] * 2 + ["nala_softmax"] * 2,
    }
    assert list(made[0].model.mixers) == want[mixers]
    assert [size[1:] for size in point["maps"]] == [[16, 32], [8, 16], [4, 8], [2, 4]]
    assert point["process_seconds"] > point["seconds"] > 0


def test_recorded_points_name_their_command_and_machine_and_are_none_of_the_measured(capsys):
    rows = detection.read_recorded()
    measured = {tuple(point) for point in detection.settings(quick=False)["points"]}
    assert rows
    for row in rows:
        assert row["command"] == "python -m linzoo.tools.demo.detection_record"
        assert row["device"] and row["commit"] and row["torch"]
        assert (row["mixers"], row["height"], row["width"]) not in measured


# the page


def section(**changes):
    point = {"mixers": "linear", "height": 64, "width": 96, "seconds": 0.5, "megabytes": 10.0}
    options = detection.settings(quick=True)
    found = [[[3.0, 4.0, 30.0, 40.0, 0.93, 1]], []]
    detector = {
        "ap": {"": 0.5, "_50": 0.75, "_75": 0.25}, "objects": 7, "found": found, "losses": [2.0, 1.0],
        "parameters": 500_000, "cpu_seconds": 20.0,
    }  # fmt: skip
    recorded = {
        **point,
        "mixers": "softmax",
        "seconds": 30.0,
        "date": "2026-01-01",
        "device": "a <cpu>",
        "commit": "abc",
    }
    return {"points": [point], "recorded": [recorded], "detector": detector, "settings": options, **changes}


def test_the_page_shows_boxes_figures_and_what_was_recorded(tmp_path):
    pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")
    detection_page.draw(tmp_path, section())
    html = detection.html(section(), tmp_path)
    assert "cup 93 %" in html and "nothing found" in html
    assert "<b>50.0</b> (AP50 75.0, AP75 25.0) on 7 objects" in html
    assert "softmax *" in html and "30 s" in html and "a &lt;cpu&gt;, commit abc" in html
    assert html.count("<img") == 3
    assert detection_page.headline(section()) == [("AP 50", "of a small all-linear RetinaNet on new scenes")]


def test_a_found_box_is_drawn_in_the_colour_of_its_class(tmp_path):
    from PIL import Image

    grey = np.full((40, 60, 3), 128, np.uint8)
    detection_page.draw_scene(tmp_path / "s.png", grey, [[10, 5, 30, 35, 0.9, 2]])
    drawn = np.asarray(Image.open(tmp_path / "s.png"))
    assert drawn.shape == (120, 180, 3)
    ys, xs = np.nonzero((drawn == detection_page.COLOURS["astronaut"]).all(2))
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (30, 90, 15, 105)


def test_without_mmdetection_the_page_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    answer = {"seconds": 1.0, "megabytes": 2.0, "process_seconds": 3.0}
    monkeypatch.setattr(worker, "run_worker", lambda module, request: request | answer)
    options = detection.settings(quick=True)
    context = Context(
        folder=tmp_path, settings=options, store=PartStore(tmp_path / "s", options), state=tmp_path
    )
    made = detection.run(context)
    assert made["detector"] is None and made["cpu_seconds"] == 6.0
    assert json.loads(json.dumps(made)) == made
    assert "linzoo[detection]" in detection.html(made, tmp_path)
    assert detection_page.headline(made) == []
