"""Data sets of ``linzoo train``: folders, tar files, streams; transforms."""

import shutil

import numpy as np
import pytest
from PIL import Image

from .train_runs import (
    PYRAMID,
    SMALL,
    last,
    make_pictures,
    one_thread,
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
