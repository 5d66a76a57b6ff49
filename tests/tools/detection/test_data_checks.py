"""The data sets that a config names: found within wrappers; classes, heads and pictures looked at."""

import pytest

pytest.importorskip("mmdet")

from PIL import Image

import linzoo.vision.detection  # noqa: F401
from linzoo.tools.detection.config import read_config
from linzoo.tools.detection.data_checks import check_data, check_pictures, datasets, head_counts

from ...vision.detection import coco_set, small


@pytest.fixture
def data(tmp_path):
    return coco_set.write(tmp_path / "coco", count=2)


@pytest.fixture
def cfg(data, tmp_path):
    return read_config(str(small.write_config(tmp_path / "small.py", data)))


def test_a_right_config_passes(cfg):
    check_data(cfg, ["train_dataloader", "val_dataloader", "test_dataloader"])


def test_data_sets_are_found_within_wrappers():
    inner = {"type": "CocoDataset", "ann_file": "a.json"}
    wrapped = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": [inner, {**inner}]}}
    found = [setting for setting, _ in datasets(wrapped, "train_dataloader.dataset")]
    assert found == [f"train_dataloader.dataset.dataset.datasets[{i}]" for i in (0, 1)]


def test_every_head_of_a_cascade_is_counted():
    model = {
        "rpn_head": {"num_classes": 1},
        "roi_head": {"bbox_head": [{"num_classes": 3}, {"num_classes": 80}], "mask_head": {"num_classes": 3}},
    }
    assert dict(head_counts(model, "model")) == {
        "model.roi_head.bbox_head[0]": 3,
        "model.roi_head.bbox_head[1]": 80,
        "model.roi_head.mask_head": 3,
    }


def test_a_custom_file_with_the_80_classes_left_in_the_config_is_refused(cfg):
    del cfg.train_dataloader.dataset["metainfo"]
    with pytest.raises(
        ValueError, match=r"names 80 classes, 78 of them .* set metainfo\.classes to cat, cup"
    ):
        check_data(cfg, ["train_dataloader"])


def test_a_data_set_of_another_format_is_left_to_mmdetection(cfg):
    cfg.train_dataloader.dataset = {"type": "VOCDataset", "ann_file": "nowhere.txt"}
    cfg.model.bbox_head.num_classes = 20
    check_data(cfg, ["train_dataloader"])
    cfg.model.bbox_head.num_classes = 2
    with pytest.raises(ValueError, match="num_classes must be 20"):
        check_data(cfg, ["train_dataloader"])


def test_pictures_that_are_missing_empty_or_none_are_counted_and_named(data):
    names = [image["file_name"] for image in data.content["images"]]
    check_pictures(data.images, names, "d")
    with pytest.raises(FileNotFoundError, match=r"1 of 3 pictures are not in .* \(first: 009.png\)"):
        check_pictures(data.images, [*names, "009.png"], "d")
    (data.images / "009.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 3 pictures .* are empty \(first: 009.png\)"):
        check_pictures(data.images, [*names, "009.png"], "d")
    (data.images / "009.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"009\.png is not a picture that Pillow can read"):
        check_pictures(data.images, [*names, "009.png"], "d")


@pytest.mark.parametrize(("mode", "size"), [("RGB", (1, 1)), ("RGBA", (50, 40))], ids=["pixel", "alpha"])
def test_training_on_a_picture_of_one_pixel_or_four_channels_runs(mode, size, data, cfg):
    import numpy as np
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    Image.new(mode, size, 200).save(data.images / "001.png")
    check_data(cfg, ["train_dataloader"])
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert sample["inputs"].shape[0] == 3
    assert max(sample["inputs"].shape[1:]) == small.SIDE
    assert np.isfinite(sample["inputs"].numpy()).all()
