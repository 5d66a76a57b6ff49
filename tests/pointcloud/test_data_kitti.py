"""KITTI folders: boxes and points as they were written, facts for the metric, files for the benchmark."""

import math
import re
from dataclasses import replace

import pytest
import torch

from linzoo.pointcloud.boxes import points_per_box, wrap_angle
from linzoo.pointcloud.data.kitti import KittiFrames, picture_heights
from linzoo.pointcloud.data.kitti_camera import boxes_from_labels, picture_boxes
from linzoo.pointcloud.data.kitti_export import kitti_lines, read_kitti_detections
from linzoo.pointcloud.data.kitti_files import PICTURE_SIZE, make_camera, read_calibration
from linzoo.pointcloud.records import Detections, Frame, Labels

from .lidar_folders import FOCAL, PICTURE, kitti_label, nothing_in, scenes, write_kitti

VAN = kitti_label("Van", (20.0, 3, -0.7, 5, 2, 2.2, 0.4), picture=(100, 100, 160, 130), occlusion=1)
SITTING = kitti_label("Person_sitting", (8.0, 2, -1.2, 0.8, 0.6, 1.2, 1.0))
TRAM = kitti_label("Tram", (30.0, -9, 0, 16, 2.5, 3.5, 0.1), picture=(1, 1, 40, 60), truncation=0.6)
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"


def angles_close(a, b, atol=1e-5):
    assert wrap_angle(a.double() - b.double()).abs().max() < atol


def boxes_close(a, b, atol=1e-5):
    torch.testing.assert_close(a[:, :6].double(), b[:, :6].double(), atol=atol, rtol=0)
    angles_close(a[:, 6], b[:, 6])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    frames = scenes(3)
    frames[2] = nothing_in(frames[2])
    folder = write_kitti(
        tmp_path_factory.mktemp("kitti"), frames, extra_lines=VAN + DONT_CARE + SITTING + TRAM
    )
    return folder, frames


def test_boxes_and_points_come_back_as_they_were_written(written):
    folder, frames = written
    data = KittiFrames(folder, "train", field_of_view=False)
    assert len(data) == 3 and data.classes == ("Car", "Pedestrian", "Cyclist") and data.point_features == 4
    for index in (0, 1):
        frame = data[index]
        assert frame.name == f"{index:06d}"
        assert torch.equal(frame.points, frames[index].points)
        boxes_close(frame.labels.boxes, frames[index].labels.boxes)
        assert torch.equal(frame.labels.classes, frames[index].labels.classes)
        assert frame.labels.boxes.dtype == torch.float32
        assert torch.equal(frame.info["num_points"], points_per_box(frame.points, frame.labels.boxes))
        assert data.labelled_classes(index) == set(frames[index].labels.classes.tolist())


def test_a_frame_without_objects_has_no_rows(written):
    data = KittiFrames(written[0], "train")
    assert data[2].labels.boxes.shape == (0, 7) and data[2].labels.classes.shape == (0,)
    assert data.labelled_classes(2) == set() and len(data[2].points) > 100
    assert data[2].info["difficulty"].shape == (0,)


def test_only_points_that_the_camera_sees_are_kept(tmp_path):
    """Against the pinhole written out: u = f x / z + c and so on, in the camera's axes."""
    frame = nothing_in(scenes(1)[0])
    behind = frame.points * torch.tensor([-1.0, -1, -1, 1])  # a pinhole maps both to the same pixels
    folder = write_kitti(tmp_path, [replace(frame, points=torch.cat([frame.points, behind]))])
    every, seen = KittiFrames(folder, field_of_view=False)[0], KittiFrames(folder)[0]
    camera = seen.info["camera"]
    xyz = (
        camera.r0 @ (camera.velo_to_cam[:, :3] @ every.points[:, :3].double().T + camera.velo_to_cam[:, 3:])
    ).T
    depth = xyz[:, 2] + 0.003
    u, v = (
        (FOCAL * xyz[:, 0] + 500 * xyz[:, 2] + 40) / depth,
        (FOCAL * xyz[:, 1] + 180 * xyz[:, 2] + 2) / depth,
    )
    kept = (xyz[:, 2] >= 0) & (u >= 0) & (u < PICTURE[0]) & (v >= 0) & (v < PICTURE[1])
    assert 0.2 < kept.double().mean() < 0.95
    assert torch.equal(seen.points, every.points[kept])


def test_the_picture_says_how_large_it_is_or_its_size_is_assumed_and_said_so(tmp_path):
    folder = write_kitti(tmp_path, scenes(1))
    frame = KittiFrames(folder)[0]
    assert frame.info["camera"].size == PICTURE and frame.info["picture_size_assumed"] is False
    (folder / "training/image_2/000000.png").unlink()
    frame = KittiFrames(folder)[0]
    assert frame.info["camera"].size == PICTURE_SIZE and frame.info["picture_size_assumed"] is True


def test_what_the_metric_ignores_is_kept_beside_the_labels(written):
    data = KittiFrames(written[0])
    frame = data[0]
    assert frame.info["ignored_names"] == ("Van", "Person_sitting", "Tram")
    boxes_close(frame.info["ignored_boxes"][:1], torch.tensor([[20.0, 3, -0.7, 5, 2, 2.2, 0.4]]))
    assert frame.info["ignored_difficulty"].tolist() == [1, 0, 3]
    torch.testing.assert_close(frame.info["dont_care"], torch.tensor([[503.89, 169.71, 590.61, 190.13]]))
    labels = data.metric_labels(frame)
    assert len(labels.names) == len(labels.boxes) == len(frame.labels.boxes) + 3
    assert labels.names[-3:] == ("Van", "Person_sitting", "Tram")


def test_difficulty_follows_height_occlusion_and_truncation(tmp_path):
    box = (10.0, 0, -1, 4, 2, 1.5, 0)
    facts = [(41, 0, 0.1), (41, 0, 0.2), (30, 1, 0.0), (26, 2, 0.5), (24, 0, 0.0), (60, 3, 0.0)]
    lines = [kitti_label("Car", box, (0, 10, 50, 10 + h), o, t) for h, o, t in facts]
    folder = write_kitti(tmp_path, [nothing_in(scenes(1)[0])], extra_lines="".join(lines))
    info = KittiFrames(folder)[0].info
    assert info["difficulty"].tolist() == [0, 1, 1, 2, 3, 3]
    assert info["occlusion"].tolist() == [o for _, o, _ in facts]
    torch.testing.assert_close(info["truncation"], torch.tensor([t for _, _, t in facts]))


def test_a_car_that_drives_away_from_the_camera_has_yaw_zero():
    calibration = {"P2": [700.0, 0, 600, 0, 0, 700, 180, 0, 0, 0, 1, 0],
                   "R0_rect": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
                   "Tr_velo_to_cam": [0.0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0]}  # fmt: skip
    camera = make_camera(calibration, (1200, 360))
    # ry -pi/2: along the camera's z; the bottom 1.7 m below the camera, 20 m ahead, 3 m to the right
    sizes, bottom = torch.tensor([[1.5, 1.8, 4.0]]), torch.tensor([[3.0, 1.7, 20.0]])
    box = boxes_from_labels(camera, sizes, bottom, torch.tensor([-math.pi / 2]))
    boxes_close(box, torch.tensor([[20.0, -3.0, -1.7 + 0.75, 4.0, 1.8, 1.5, 0.0]]))
    # its rear is 18 m away: from there its sides and bottom give the largest extent
    left, right = 700 * (3 - 0.9) / 22 + 600, 700 * (3 + 0.9) / 18 + 600
    low, high = 700 * 0.2 / 22 + 180, 700 * 1.7 / 18 + 180
    torch.testing.assert_close(picture_boxes(camera, box), torch.tensor([[left, low, right, high]]).double())


def test_exported_detections_read_back_as_the_same_boxes(written, tmp_path):
    data = KittiFrames(written[0])
    frame, camera = data[0], data[0].info["camera"]
    seen = (picture_boxes(camera, frame.labels.boxes)[:, 2:] > 0).all(1)
    boxes, n = frame.labels.boxes[seen], int(seen.sum())
    assert n > 2
    found = Detections(boxes, torch.linspace(0.9, 0.1, n), frame.labels.classes[seen])
    (tmp_path / "a.txt").write_text(kitti_lines(found, camera, data.classes))
    read = read_kitti_detections(tmp_path / "a.txt", camera, data.classes)
    boxes_close(read.boxes, found.boxes)
    torch.testing.assert_close(read.scores, found.scores, atol=1e-6, rtol=0)
    assert torch.equal(read.classes, found.classes)
    line = (tmp_path / "a.txt").read_text().splitlines()[0].split()
    alpha, x, z, ry = (float(line[i]) for i in (3, 11, 13, 14))
    assert abs(math.remainder(alpha - (ry - math.atan2(x, z)), 2 * math.pi)) < 1e-5
    assert len(line) == 16 and line[1:3] == ["-1", "-1"]


def test_detections_behind_the_camera_are_not_exported_and_cut_boxes_end_at_the_edge(written):
    camera = KittiFrames(written[0])[0].info["camera"]
    boxes = torch.tensor(
        [[-20.0, 0, 0, 4, 2, 1.5, 0], [1.5, 0, 0, 4, 2, 1.5, 0], [30.0, 60, 0, 4, 2, 1.5, 0]]
    )
    flat = picture_boxes(camera, boxes)
    assert flat[0].tolist() == [0, 0, 0, 0] and flat[2].tolist() == [0, 0, 0, 0]
    assert flat[1].tolist() == [0, 0, PICTURE[0] - 1, PICTURE[1] - 1]
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64))
    assert len(kitti_lines(found, camera, ("Car",)).splitlines()) == 1
    assert picture_heights(camera, boxes).tolist() == [0, PICTURE[1] - 1, 0]
    none = Detections(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert kitti_lines(none, camera, ("Car",)) == ""


def test_finding_every_label_scores_a_hundred_and_finding_none_zero(tmp_path):
    camera = KittiFrames(write_kitti(tmp_path, scenes(1)))[0].info["camera"]
    frames = []
    for frame in scenes(3):
        high = picture_heights(camera, frame.labels.boxes) > 45
        labels = Labels(frame.labels.boxes[high], frame.labels.classes[high])
        frames.append(Frame(points=frame.points, labels=labels, name=frame.name))
    data = KittiFrames(write_kitti(tmp_path, frames, extra_lines=VAN))
    labels = [data.metric_labels(data[i]) for i in range(3)]
    right = [
        Detections(frame.labels.boxes, torch.linspace(1, 0.5, len(frame.labels.boxes)), frame.labels.classes)
        for frame in frames
    ]
    figures = data.score(right, labels)
    assert {0, 1, 2} == set(torch.cat([found.classes for found in right]).tolist())
    assert set(figures) >= {"score", "Car_bev_easy", "Cyclist_ahs_hard", "Pedestrian_3d_moderate"}
    assert all(value == pytest.approx(100) for value in figures.values())
    nothing = [Detections(found.boxes[:0], found.scores[:0], found.classes[:0]) for found in right]
    assert data.score(nothing, labels)["score"] == 0


def test_detections_too_low_in_the_picture_do_not_count_as_false(tmp_path):
    far = (60.0, 0, -1, 4, 2, 1.2, 0)  # 1.2 m at 60 m: 10 pixels
    near = kitti_label("Car", (10.0, 0, -1, 4, 2, 1.5, 0))
    data = KittiFrames(write_kitti(tmp_path, [nothing_in(scenes(1)[0])], extra_lines=near))
    labels = [data.metric_labels(data[0])]
    boxes = torch.cat([torch.tensor([far]), data[0].labels.boxes])
    found = [Detections(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64))]
    assert data.score(found, labels)["Car_3d_easy"] == pytest.approx(100)


def test_other_objects_without_a_size_are_not_scored(tmp_path):
    flat = "Misc 0.00 0 0 10 20 60 90 -1 -1 -1 -1000 -1000 -1000 -10\n"
    data = KittiFrames(write_kitti(tmp_path, scenes(1), extra_lines=flat + VAN))
    labels = data.metric_labels(data[0])
    assert data[0].info["ignored_names"] == ("Misc", "Van")
    assert labels.names[-1] == "Van" and "Misc" not in labels.names
    assert len(labels.names) == len(labels.boxes) == len(labels.difficulty)


def test_the_test_split_has_points_and_no_labels(tmp_path):
    folder = write_kitti(tmp_path, scenes(1))
    (folder / "training").rename(folder / "testing")
    (folder / "ImageSets/test.txt").write_text("000000\n")
    (folder / "testing/label_2/000000.txt").unlink()
    frame = KittiFrames(folder, "test")[0]
    assert len(frame.labels.boxes) == 0 and len(frame.points) > 100


def breaking(tmp_path, path, content):
    folder = write_kitti(tmp_path, scenes(1))
    file = folder / path
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    return lambda: KittiFrames(folder, "train")[0]


CALIBRATION = "training/calib/000000.txt"
LABEL = "training/label_2/000000.txt"
BROKEN = [
    ("ImageSets/train.txt", None, "there is no such list of frames"),
    ("ImageSets/train.txt", b"\n", "must name at least one frame"),
    ("ImageSets/train.txt", b"000000\n000000\n", "must name each frame once, got 000000 again"),
    (CALIBRATION, None, "there is no such calibration file"),
    (CALIBRATION, b"P2: 1 2 3\n", "must have P2 with 12 numbers, got 3 numbers"),
    (CALIBRATION, b"P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", "must have R0_rect with 9 numbers, got no such line"),
    (CALIBRATION, b"P2: 1 0 x\n", "line 1 must hold numbers"),
    (LABEL, None, "there is no such file of labels"),
    (LABEL, b"Car 0 0 1 2 3\n", "line 1 must have 15 columns, 16 with a score, got 6"),
    ("ImageSets/train.txt", b"\xff00", "must be a UTF-8 text, got the byte 0xff"),
    (CALIBRATION, b"P2: \xff", "must be a UTF-8 text, got the byte 0xff"),
    (LABEL, VAN.encode().replace(b"Van", b"V\xe4n"), "must be a UTF-8 text, got the byte 0xe4"),
    (LABEL, VAN.encode() + VAN.lower().encode(), "line 2 must name the type Van, got 'van'"),
    (LABEL, VAN.encode() + VAN.replace("Van 0.00", "Van nan").encode(), "line 2 must hold finite numbers"),
    ("training/velodyne/000000.bin", None, "there is no such file of points"),
    ("training/velodyne/000000.bin", b"", r"is empty \(0 bytes\)"),
    ("training/image_2/000000.png", b"JFIF" * 9, "must be a PNG picture"),
]


@pytest.mark.parametrize(("path", "content", "message"), BROKEN, ids=lambda value: str(value)[:24])
def test_a_broken_file_is_named_with_its_fault(tmp_path, path, content, message):
    read = breaking(tmp_path, path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read()
    assert path in str(caught.value)


@pytest.mark.parametrize("name", ["R0_rect", "Tr_velo_to_cam"])
def test_a_calibration_that_cannot_be_undone_is_named(tmp_path, name):
    folder = write_kitti(tmp_path, scenes(1))
    lines = (folder / CALIBRATION).read_text().splitlines()
    flat = [re.sub(r" .*", " 0" * (len(x.split()) - 1), x) if x.startswith(name) else x for x in lines]
    (folder / CALIBRATION).write_text("\n".join(flat))
    with pytest.raises(ValueError, match=rf"000000\.txt: {name} must turn three axes, got \[0\.0, "):
        KittiFrames(folder)[0]


def test_a_list_that_an_editor_gave_a_byte_order_mark_is_read(tmp_path):
    folder = write_kitti(tmp_path, scenes(1))
    (folder / "ImageSets/train.txt").write_bytes(b"\xef\xbb\xbf000000\r\n")
    assert KittiFrames(folder).names == ["000000"]


def test_a_folder_that_is_not_kittis_and_a_wrong_index_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold training/"):
        KittiFrames(tmp_path)
    data = KittiFrames(write_kitti(tmp_path, scenes(1)))
    with pytest.raises(IndexError, match=r"index must be in 0 .. 0, got 1"):
        data[1]


def test_a_calibration_is_read_row_by_row(written):
    camera = make_camera(read_calibration(written[0] / CALIBRATION), PICTURE)
    assert camera.p2[1].tolist() == [0, FOCAL, 180, 2] and camera.velo_to_cam[2].tolist() == [1, 0, 0, -0.3]
    points = scenes(1)[0].points[:9, :3]
    torch.testing.assert_close(camera.to_lidar(camera.to_camera(points)), points.double())
