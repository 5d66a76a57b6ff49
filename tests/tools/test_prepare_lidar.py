"""``linzoo prepare-lidar``: what it stores, what it says of faulty frames, how it goes on after an end."""

import argparse
import json
import subprocess
import sys
import time

import pytest
import torch

from linzoo.pointcloud.data.kitti import KittiFrames
from linzoo.pointcloud.data.nuscenes import NuScenesFrames
from linzoo.pointcloud.data.paste import PasteDatabase
from linzoo.pointcloud.data.waymo import WaymoFrames
from linzoo.tools import train_lidar
from linzoo.tools.lidar.datasets import open_frames
from linzoo.tools.lidar.preparation import choose_objects
from linzoo.tools.prepare_lidar import add_arguments, run

from ..pointcloud.lidar_folders import (
    kitti_label,
    nothing_in,
    scenes,
    write_kitti,
    write_nuscenes,
    write_waymo,
)


def prepare(folder, dataset="kitti", *words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(["--dataset", dataset, "--data-dir", str(folder), *words]))


OPEN = {
    "kitti": (write_kitti, lambda folder: KittiFrames(folder, "train"), ()),
    "nuscenes": (
        write_nuscenes,
        lambda folder: NuScenesFrames(folder, "v1.0-mini", "train", sweeps=2),
        ("--data-version", "v1.0-mini", "--sweeps", "2"),
    ),
    "waymo": (write_waymo, lambda folder: WaymoFrames(folder, "train"), ()),
}


def same_frames(a, b):
    assert len(a) == len(b)
    for index in range(len(a)):
        one, other = a[index], b[index]
        assert one.name == other.name and torch.equal(one.points, other.points)
        assert all(torch.equal(x, y) for x, y in zip(one.labels, other.labels, strict=True))
        assert one.info.keys() == other.info.keys()
        assert torch.equal(one.info["num_points"], other.info["num_points"])
        assert a.labelled_classes(index) == b.labelled_classes(index)


@pytest.mark.parametrize("dataset", OPEN)
def test_prepared_frames_and_objects_equal_those_read_from_the_data_set(tmp_path, dataset, capsys):
    write, read, words = OPEN[dataset]
    folder = write(tmp_path, scenes(3))
    plain = read(folder)
    gathered = PasteDatabase.of(plain, min_points=5)
    assert plain.paste_file is None
    assert prepare(folder, dataset, *words, "--part", "2") == 0
    prepared = read(folder)
    assert prepared.paste_file.is_file() and prepared.prepared.read() is not None
    same_frames(plain, prepared)
    stored = PasteDatabase.of(prepared, min_points=5)
    assert len(stored) == len(gathered) > 3
    assert torch.equal(stored.points, gathered.points) and torch.equal(stored.boxes, gathered.boxes)
    out = capsys.readouterr().out.splitlines()
    counts = torch.cat([plain[i].labels.classes for i in range(len(plain))]).bincount(
        minlength=len(plain.classes)
    )
    assert out[0].split() == ["split", "frames", "no", "objects", *plain.classes, "to", "paste", "faults"]
    assert out[1].split() == [
        "train",
        str(len(plain)),
        "0",
        *map(str, counts.tolist()),
        str(len(gathered)),
        "0",
    ]
    assert out[2].split()[0] == "val" and out[2].split()[-2:] == ["0", "0"]
    assert sorted(path.suffix for path in (folder / "linzoo").iterdir()) == [".json", ".json", ".safetensors"]


def test_stored_facts_are_what_readers_use_and_not_with_other_settings(tmp_path):
    folder = write_kitti(tmp_path, scenes(2))
    prepare(folder)
    for part in ("label_2", "calib"):
        (folder / "training" / part / "000000.txt").unlink()
    assert len(KittiFrames(folder)[0].labels.boxes) > 3
    with pytest.raises(FileNotFoundError):
        KittiFrames(folder, field_of_view=False)[0]
    (folder / "ImageSets/train.txt").write_text("000000\n")
    with pytest.raises(FileNotFoundError):
        KittiFrames(folder)[0]


def test_another_output_is_read_when_it_is_named(tmp_path):
    folder = write_kitti(tmp_path / "data", scenes(1))
    prepare(folder, "kitti", "--output", str(tmp_path / "out"))
    assert not (folder / "linzoo").exists()
    assert KittiFrames(folder).paste_file is None
    assert KittiFrames(folder, prepared=tmp_path / "out").paste_file.is_file()


@pytest.mark.parametrize("dataset", OPEN)
def test_training_and_validation_read_another_output_by_its_flag(tmp_path, dataset):
    write, _, words = OPEN[dataset]
    folder = write(tmp_path / "data", scenes(1))
    prepare(folder, dataset, *words, "--output", str(tmp_path / "out"))
    line = ["--detector", "scatterformer_small", "--dataset", dataset, "--data-dir", str(folder), *words]
    for flags, found in ((["--prepared", str(tmp_path / "out")], True), ([], False)):
        args = train_lidar.parse([*line, *flags])
        for train in (True, False):
            frames = open_frames(args, train)
            assert (frames.prepared.read() is not None) == found
            assert (frames.paste_file is not None) == (found and train)


def test_faulty_frames_are_named_and_keep_the_split_from_being_stored(tmp_path, capsys):
    frames = scenes(4)
    folder = write_kitti(tmp_path, frames, splits={"train": [f"{i:06d}" for i in range(4)]})
    good = (folder / "training/velodyne/000001.bin").read_bytes()
    (folder / "training/velodyne/000001.bin").write_bytes(good[:-3])
    (folder / "training/calib/000003.txt").unlink()
    labels = folder / "training/label_2/000002.txt"
    sound = labels.read_text()
    labels.write_text(kitti_label("Car", (10, 0, -1, 4, 0, 1.5, 0)) + sound)
    assert prepare(folder, "kitti", "--split", "train", "--part", "1") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[:3] == ["train", "1", "0"]
    assert captured.out.splitlines()[1].split()[-1] == "3"
    assert "train 000001: " in captured.err and "rows of 4 float32" in captured.err
    assert "train 000002: object 0 (Car) must have finite values and sizes above 0" in captured.err
    assert "train 000003: " in captured.err and "there is no such calibration file" in captured.err
    assert "nothing stored; mend the files and run again, or --skip-faulty" in captured.err
    assert KittiFrames(folder).prepared.read() is None

    (folder / "training/velodyne/000001.bin").write_bytes(good)
    labels.write_text(sound)
    assert prepare(folder, "kitti", "--split", "train", "--part", "1", "--skip-faulty") == 0
    assert "stored without 1 frames that have faults" in capsys.readouterr().err
    assert KittiFrames(folder).names == ["000000", "000001", "000002"]


def test_a_frame_without_points_in_view_is_a_fault_and_one_without_objects_is_not(tmp_path, capsys):
    behind, empty = scenes(1)[0], nothing_in(scenes(2)[1])
    behind.points[:, 0] = -behind.points[:, 0].abs() - 1
    folder = write_kitti(tmp_path, [behind, empty])
    (folder / "training/image_2/000001.png").unlink()
    assert prepare(folder, "kitti", "--split", "train") == 1
    captured = capsys.readouterr()
    assert "train 000000: holds no points (in the field of view, outside no-label" in captured.err
    assert "train: 1 frames have no picture; its size was taken to be 1242 x 375" in captured.err
    assert captured.out.splitlines()[1].split() == ["train", "1", "1", "0", "0", "0", "0", "1"]


def test_an_object_that_is_scored_and_not_trained_on_needs_an_extent_too(tmp_path, capsys):
    frame = scenes(1)[0]
    frame.labels.boxes[0, 3], frame.info["num_points"][0] = 0, 0  # no point: not among the labels
    folder = write_waymo(tmp_path, [frame])
    assert prepare(folder, "waymo", "--split", "train") == 1
    assert (
        "0000 cannot be scored: object 0 must have finite values and sizes above 0" in capsys.readouterr().err
    )


def counting(monkeypatch, last=None):
    """The names of frames that are read; after ``last`` of them the run is interrupted."""
    read, original = [], KittiFrames.__getitem__

    def getitem(self, index):
        if last is not None and len(read) == last:
            raise KeyboardInterrupt
        read.append(self.names[index])
        return original(self, index)

    monkeypatch.setattr(KittiFrames, "__getitem__", getitem)
    return read


def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same(tmp_path, monkeypatch):
    folder = write_kitti(tmp_path / "a", scenes(5), splits={"train": [f"{i:06d}" for i in range(5)]})
    words = ("--split", "train", "--part", "2")
    with monkeypatch.context() as patch:
        counting(patch, last=3)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, "kitti", *words)
    with monkeypatch.context() as patch:
        read = counting(patch)
        assert prepare(folder, "kitti", *words) == 0
        assert read == ["000002", "000003", "000004"]
        assert prepare(folder, "kitti", *words) == 0 and len(read) == 3
        assert prepare(folder, "kitti", *words, "--paste-min-points", "9") == 0 and len(read) == 8
        assert prepare(folder, "kitti", *words, "--paste-min-points", "9", "--again") == 0 and len(read) == 13
    other = write_kitti(tmp_path / "b", scenes(5), splits={"train": [f"{i:06d}" for i in range(5)]})
    prepare(other, "kitti", "--split", "train", "--paste-min-points", "9")
    for name in ("paste_train.safetensors",):
        assert (folder / "linzoo" / name).read_bytes() == (other / "linzoo" / name).read_bytes()
    one, same = (json.loads((f / "linzoo/frames_train.json").read_text()) for f in (folder, other))
    assert one["frames"] == same["frames"]


SLOWLY = """
import argparse, sys, time
from linzoo.pointcloud.data.kitti import KittiFrames
from linzoo.tools.prepare_lidar import add_arguments, run
original = KittiFrames.__getitem__
def getitem(self, index):
    time.sleep(0.1)
    return original(self, index)
KittiFrames.__getitem__ = getitem
parser = argparse.ArgumentParser()
add_arguments(parser)
run(parser.parse_args(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    folder = write_kitti(tmp_path, scenes(6), splits={"train": [f"{i:06d}" for i in range(6)]})
    words = ("--dataset", "kitti", "--data-dir", str(folder), "--split", "train", "--part", "1")
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words])
    limit = time.monotonic() + 120
    while not (folder / "linzoo/parts_train/000001.json").exists() and time.monotonic() < limit:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9 and not (folder / "linzoo/frames_train.json").exists()
    (folder / "linzoo/parts_train/.000002.json.1.tmp").write_bytes(b"{")  # killed while it was writing
    read = counting(monkeypatch)
    assert prepare(folder, "kitti", "--split", "train", "--part", "1") == 0
    assert 1 <= len(read) <= 4 and read[-1] == "000005"
    assert len(KittiFrames(folder).prepared.read()) == 6


def test_of_a_frequent_class_an_even_draw_is_stored(tmp_path):
    folder = write_kitti(tmp_path, scenes(4))
    prepare(folder, "kitti", "--split", "train", "--paste-limit", "2", "--part", "1")
    stored = PasteDatabase.load(folder / "linzoo/paste_train.safetensors")
    every = PasteDatabase.of(KittiFrames(folder, prepared=tmp_path / "none"))
    assert every.classes.bincount().max() > 2
    assert torch.equal(stored.classes.bincount(), every.classes.bincount().clamp(max=2))
    masks = choose_objects([[0, 1, 0], [], [0, 0, 0, 0, 0, 1]], 3)
    assert [len(mask) for mask in masks] == [3, 0, 6] and masks[0][1] and masks[2][5]
    assert int(sum(mask.sum() for mask in masks)) == 5
    assert choose_objects([], 3) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"frames": [{"name"', '"frames": [{"nome"'),
        lambda text: json.dumps({**json.loads(text), "summary": 3}),
    ],
    ids=["cut short", "no names", "no summary"],
)
def test_a_damaged_file_of_facts_is_named_and_made_again(tmp_path, spoil):
    folder = write_kitti(tmp_path, scenes(1))
    prepare(folder)
    file = folder / "linzoo/frames_train.json"
    whole = file.read_text()
    file.write_text(spoil(whole))
    with pytest.raises(ValueError, match=r"frames_train\.json: is damaged .* delete it and prepare"):
        KittiFrames(folder)
    assert prepare(folder, "kitti", "--again") == 0 and file.read_text() == whole


@pytest.mark.parametrize("metadata", ["x", "[]", '{"format": 9}'])
def test_a_file_of_other_objects_is_named(tmp_path, metadata):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "paste.safetensors", {"paste": metadata})
    with pytest.raises(ValueError, match=r"paste\.safetensors: must be a paste database of format 1, got"):
        PasteDatabase.load(tmp_path / "paste.safetensors")


@pytest.mark.parametrize(
    ("dataset", "words", "message"),
    [
        ("kitti", ("--split", "train", "trial"), r"trial\.txt: there is no such list of frames"),
        ("kitti", ("--split", "train", "test"), "a KITTI folder must hold testing/, there is none"),
        ("kitti", ("--sweeps", "2"), "--sweeps must go with the data set nuscenes, got kitti and 2"),
        (
            "waymo",
            ("--data-version", "v2"),
            "--data-version must go with the data set nuscenes, got waymo and",
        ),
        ("waymo", ("--split", "train", "trial"), r"trial\.txt: there is no such list of sequences"),
        ("nuscenes", (), r"must hold the folder of tables v1\.0-trainval/, there is v1\.0-mini/"),
        (
            "nuscenes",
            ("--data-version", "v1.0-mini", "--split", "mini"),
            "must say which scenes are split 'mini'",
        ),
        ("kitti", ("--paste-split", "trian"), "--paste-split must be of --split train val, got trian"),
    ],
)
def test_what_cannot_be_prepared_is_named_before_anything_is_stored(tmp_path, dataset, words, message):
    folder = OPEN[dataset][0](tmp_path, scenes(1))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(folder, dataset, *words)
    assert not (folder / "linzoo").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--part", "0"), "--part must be at least 1, got 0"),
        (("--paste-min-points", "0"), "--paste-min-points must be at least 1, got 0"),
        (("--data-dir", "nowhere"), "--data-dir must be the folder of the data set kitti, got nowhere"),
    ],
)
def test_wrong_words_are_named(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, "kitti", *words)
