"""Waymo's per-sequence folders, and the pickles in them that may hold plain values alone."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from linzoo.pointcloud.data.plain_pickle import read_plain_pickle
from linzoo.pointcloud.data.waymo import WaymoFrames
from linzoo.pointcloud.records import Detections

from .lidar_folders import nothing_in, scenes, write_waymo

SEQUENCE = "segment-0_with_camera_labels"
PLACE = f"waymo_processed_data_v0_5_0/{SEQUENCE}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    frames = scenes(2)
    frames.append(nothing_in(frames[0]))
    return write_waymo(tmp_path_factory.mktemp("waymo"), frames, sequences=2), frames


def test_boxes_and_points_come_back_as_they_were_written(written):
    folder, frames = written
    data = WaymoFrames(folder, "train")
    assert (
        len(data) == 6 and data.classes == ("Vehicle", "Pedestrian", "Cyclist") and data.point_features == 5
    )
    for index in (0, 1, 4):
        frame, wanted = data[index], frames[index % 3]
        outside = torch.arange(len(wanted.points)) % 10 != 3
        assert torch.equal(frame.points[:, :4], wanted.points[outside]) and (frame.points[:, 4] == 0.5).all()
        torch.testing.assert_close(frame.labels.boxes, wanted.labels.boxes, atol=1e-5, rtol=0)
        assert torch.equal(frame.labels.classes, wanted.labels.classes)
        assert torch.equal(frame.info["num_points"], wanted.info["num_points"])
        assert data.labelled_classes(index) == set(wanted.labels.classes.tolist())
        assert frame.info["ignored_boxes"].tolist() == [[30.0, 5, 1, pytest.approx(0.2), 1, 1, 0]]
    assert data[4].name == "segment-1_with_camera_labels/0001"
    assert data[2].labels.boxes.shape == (0, 7) and data.labelled_classes(2) == set()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    folder = write_waymo(tmp_path, scenes(1), protocol=protocol)
    assert len(WaymoFrames(folder)[0].labels.boxes) > 3


def test_a_name_of_older_numpy_is_read_too(tmp_path):
    content = pickle.dumps({"a": np.arange(3.0), "b": np.float32(2)}, protocol=2)
    (tmp_path / "a.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    read = read_plain_pickle(tmp_path / "a.pkl")
    assert read["a"].tolist() == [0, 1, 2] and read["b"] == 2


def test_objects_without_points_are_no_labels(tmp_path):
    frame = scenes(1)[0]
    frame.info["num_points"][0] = 0
    data = WaymoFrames(write_waymo(tmp_path, [frame]))
    read = data[0]
    torch.testing.assert_close(read.labels.boxes, frame.labels.boxes[1:], atol=1e-5, rtol=0)
    assert len(data.metric_labels(read).boxes) == len(frame.labels.boxes)


def test_finding_every_label_scores_a_hundred(written):
    data = WaymoFrames(written[0])
    frames = [data[index] for index in range(3)]
    right = [
        Detections(f.labels.boxes, torch.linspace(1, 0.5, len(f.labels.boxes)), f.labels.classes)
        for f in frames
    ]
    labels = [data.metric_labels(frame) for frame in frames]
    figures = data.score(right, labels)
    assert figures["score"] == pytest.approx(100) and figures["Vehicle_L1_APH"] == pytest.approx(100)
    turned = [
        found._replace(boxes=found.boxes + torch.tensor([0, 0, 0, 0, 0, 0, torch.pi])) for found in right
    ]
    backwards = data.score(turned, labels)
    assert backwards["Vehicle_L2_AP"] == pytest.approx(100) and backwards["score"] == pytest.approx(
        0, abs=1e-3
    )


def test_sequences_may_lie_in_the_folder_itself_and_all_needs_no_list(tmp_path):
    folder = write_waymo(tmp_path, scenes(1), sequences=2)
    plain = folder / "waymo_processed_data_v0_5_0"
    assert len(WaymoFrames(plain, "all")) == 2 and len(WaymoFrames(folder, "all")) == 2
    with pytest.raises(FileNotFoundError, match=r"train\.txt: there is no such list of sequences"):
        WaymoFrames(plain, "train")
    with pytest.raises(ValueError, match="must hold folders of sequences"):
        WaymoFrames(folder / "ImageSets", "all")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        WaymoFrames(folder / "nothing")


class Harmful:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    "content",
    [Harmful(), [{"a": Harmful()}], np.array([Harmful()], dtype=object), Counter("ab"), range(3)],
    ids=["call", "inside", "in an array", "Counter", "range"],
)
def test_a_pickle_that_names_anything_else_calls_nothing(tmp_path, capsys, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"a.pkl: is no pickle of plain values and arrays: it names"):
        read_plain_pickle(tmp_path / "a.pkl")
    assert capsys.readouterr().out == ""


BROKEN = [
    ("ImageSets/train.txt", b"", "must name at least one sequence"),
    ("ImageSets/train.txt", b"\xff", "must be a UTF-8 text, got the byte 0xff"),
    (
        "ImageSets/train.txt",
        f"{SEQUENCE} {SEQUENCE}.tfrecord".encode(),
        f"each sequence once, got {SEQUENCE}",
    ),
    (f"{PLACE}/{SEQUENCE}.pkl", pickle.dumps([]), "split 'train' must hold at least one frame, got none"),
    ("ImageSets/train.txt", b"segment-9.tfrecord", "segment-9: there is no such sequence, which"),
    (f"{PLACE}/{SEQUENCE}.pkl", None, "there is no such file"),
    (f"{PLACE}/{SEQUENCE}.pkl", b"", "is no pickle of plain values"),
    (f"{PLACE}/{SEQUENCE}.pkl", pickle.dumps([1, 2, 3] * 99)[:-9], "is no pickle of plain values"),
    (f"{PLACE}/{SEQUENCE}.pkl", pickle.dumps({"a": 1}), "must be a list of one dictionary a frame, got dict"),
    (f"{PLACE}/{SEQUENCE}.pkl", pickle.dumps([{"a": 1}]), "frame 0 does not have the layout .*point_cloud"),
    (f"{PLACE}/0000.npy", None, "there is no such file of points"),
    (f"{PLACE}/0000.npy", b"\x93NUMPY\x01", "cut short or no .npy"),
]


@pytest.mark.parametrize(("path", "content", "message"), BROKEN, ids=lambda value: str(value)[:24])
def test_a_broken_file_is_named_with_its_fault(tmp_path, path, content, message):
    folder = write_waymo(tmp_path, scenes(1))
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        WaymoFrames(folder)[0]
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_points_in_gt": np.array([1])}, "1 num_points_in_gt"),
        ({"gt_boxes_lidar": np.zeros((2, 6)), "name": ["Sign", "Sign"]}, r"gt_boxes_lidar \(2, 6\)"),
        ({"name": ["Sign", "vehicle"]}, "must name the class Vehicle, got 'vehicle'"),
    ],
)
def test_annotations_that_do_not_fit_together_are_refused(tmp_path, change, message):
    folder = write_waymo(tmp_path, scenes(1))
    path = folder / PLACE / f"{SEQUENCE}.pkl"
    rows = pickle.loads(path.read_bytes())
    rows[0]["annos"] |= change
    path.write_bytes(pickle.dumps(rows))
    with pytest.raises(ValueError, match=message):
        WaymoFrames(folder)


def test_two_frames_of_one_file_are_refused(tmp_path):
    folder = write_waymo(tmp_path, scenes(2))
    path = folder / PLACE / f"{SEQUENCE}.pkl"
    rows = pickle.loads(path.read_bytes())
    rows[1]["point_cloud"]["sample_idx"] = 0
    path.write_bytes(pickle.dumps(rows))
    with pytest.raises(ValueError, match=r"sample_idx once, two frames are .*/0000\.npy"):
        WaymoFrames(folder)


def test_rows_of_another_width_are_refused(tmp_path):
    folder = write_waymo(tmp_path, scenes(1))
    np.save(folder / PLACE / "0000.npy", np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="must hold 5 or 6 values a point, got 4"):
        WaymoFrames(folder)[0]
    np.save(folder / PLACE / "0000.npy", np.ones((5, 5), np.float32))
    assert WaymoFrames(folder)[0].points.shape == (5, 5)
