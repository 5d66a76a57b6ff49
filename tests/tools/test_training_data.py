"""Data sets of ``linzoo train``: folders, tar files, streams; transforms."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from .train_runs import (
    PYRAMID,
    SMALL,
    last,
    make_pictures,
    one_thread,
    refused,
    rows,
    run,
)

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_folders_and_tar_files_are_read(tmp_path, kind):
    data = make_pictures(tmp_path / "data")
    words = [*SMALL, *PYRAMID, "-b", "4", "--max-steps", "3", "-j", "2", "--log-interval", "1"]
    if kind == "tar":
        shutil.make_archive(str(tmp_path / "pictures"), "tar", data / "train")
        words += ["--val-split", ""]
        data = tmp_path / "pictures.tar"
    assert run(tmp_path, str(data), *words) == 0
    assert last(tmp_path / "run")["args"]["num_classes"] == 2
    assert len(rows(tmp_path / "run" / "steps.csv")) == 3


def test_validation_classes_get_the_numbers_of_training(tmp_path):
    from argparse import Namespace

    from linzoo.tools.training.datasets import open_datasets

    make_pictures(tmp_path, classes=("ant", "bee", "cow"), splits=("train",), each=1)
    make_pictures(tmp_path, classes=("bee", "cow"), splits=("validation",), each=1)
    args = Namespace(
        dataset="", data_dir=str(tmp_path), train_split="train", val_split="validation", class_map="",
        input_img_mode=None, in_chans=None, input_size=None, dataset_download=False, batch_size=1, seed=0,
        train_num_samples=None, val_num_samples=None, input_key=None, target_key=None,
    )  # fmt: skip
    datasets = open_datasets(args)
    assert [target for _, target in datasets.evaluation] == [1, 2] and datasets.num_classes == 3


def test_posterising_to_nothing_gives_a_black_picture():
    from linzoo.tools.training.transforms import operations, train_transform

    for separate in (False, True):
        transform = train_transform(
            (3, 8, 8), auto_augment="rand-m9-mstd0.5-inc1", separate=separate, use_prefetcher=True
        )
        ops = [op for op in operations(transform) if "Posterize" in op.name]
        assert len(ops) == 1
        ops[0].prob, ops[0].magnitude, ops[0].magnitude_std = 1.0, 10, 0
        assert np.asarray(ops[0](Image.new("RGB", (8, 8), "white"))).max() == 0
        ops[0].magnitude = 9
        assert np.asarray(ops[0](Image.new("RGB", (8, 8), "white"))).min() > 0


class Stream:
    """A reader as timm has them for webdatasets: pictures in the order of the epoch, no index."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        for i in range(12):
            yield Image.new("L", (16, 16), 20 * ((i + self.epoch) % 12)), i % 2

    def __len__(self):
        return 12

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs.append(epoch)


@pytest.mark.parametrize("prefetcher", [[], ["--no-prefetcher"]], ids=["prefetched", "plain"])
def test_a_stream_is_trained_on_and_taken_up_at_an_epoch(tmp_path, monkeypatch, capsys, prefetcher):
    from timm.data.dataset import IterableImageDataset

    from linzoo.tools.training import datasets

    def create(name, root, split, **_):
        return IterableImageDataset(root, reader=Stream())

    monkeypatch.setattr(datasets, "create_dataset", create)
    monkeypatch.setattr(Stream, "epochs", [], raising=False)
    flags = [*SMALL, *PYRAMID, *prefetcher, "--dataset", "wds/pictures", "--in-chans", "1", "-b", "4"]
    flags += ["--mixup", "0.2", "--mixup-off-epoch", "1", "--epochs", "2", "--warmup-epochs", "0"]
    refused(capsys, run(tmp_path, *flags), "--num-classes must be given")
    flags += ["--num-classes", "2"]
    assert run(tmp_path, *flags, "--max-steps", "2") == 0
    assert run(tmp_path, *flags, "--resume", "auto") == 0
    assert "at the beginning of epoch 0: a stream cannot be taken up within" in capsys.readouterr().err
    assert Stream.epochs == [0, 0, 1]
    state = last(tmp_path / "run")
    assert state["progress"]["epoch"] == 2 and len(state["progress"]["history"]) == 2


def write_shards(root, classes=2, shards=2, each=4):
    """A webdataset as timm reads it: tar files of pictures and classes, and ``_info.json``."""
    root.mkdir()
    splits = {}
    for split in ("train", "validation"):
        names = [f"{split}-{number}.tar" for number in range(shards)]
        for name in names:
            with tarfile.open(root / name, "w") as shard:
                for i in range(each):
                    picture = io.BytesIO()
                    Image.new("RGB", (20, 20), (25 * i, 90, 50)).save(picture, "JPEG")
                    for suffix, content in (("jpg", picture.getvalue()), ("cls", b"%d" % (i % classes))):
                        entry = tarfile.TarInfo(f"{i:03}.{suffix}")
                        entry.size = len(content)
                        shard.addfile(entry, io.BytesIO(content))
        lengths = {"shard_lengths": [each] * shards, "num_samples": each * shards}
        splits[split] = {"name": split, "filenames": names, **lengths}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def test_webdataset_shards_are_read_by_timms_reader(tmp_path, capsys):
    pytest.importorskip("webdataset")
    flags = ["--dataset", "wds/", "--data-dir", str(write_shards(tmp_path / "shards")), "--num-classes", "2"]
    flags += [*SMALL, *PYRAMID, "-b", "4", "--epochs", "1", "--warmup-epochs", "0"]
    assert run(tmp_path, *flags) == 0
    assert "[8 pictures]" in capsys.readouterr().err
    assert last(tmp_path / "run")["progress"]["steps"] == 2
