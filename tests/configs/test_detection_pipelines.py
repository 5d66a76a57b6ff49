"""configs/detection: what happens to a picture on its way into a detector."""

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")

import linzoo.vision.detection  # noqa: F401  before mmdet's models are imported

from mmengine.dataset import Compose  # isort: skip
from mmdet.utils import register_all_modules  # isort: skip

from .test_detection_configs import NAMES, SETTINGS, config_of


@pytest.fixture(scope="module", autouse=True)
def _scope():
    register_all_modules(init_default_scope=True)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A picture of 160 x 240 with one object, as CocoDataset gives it."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (160, 240, 3), dtype=np.uint8))
    outline = [40.0, 30.0, 200.0, 30.0, 200.0, 130.0, 40.0, 130.0]
    instance = {"bbox": [40, 30, 200, 130], "bbox_label": 3, "ignore_flag": 0, "mask": [outline]}
    return {
        "img_path": str(path), "img_id": 1, "height": 160, "width": 240, "seg_map_path": None,
        "instances": [instance],
    }  # fmt: skip


def run(pipeline, sample):
    return Compose(pipeline)({**sample, "instances": [dict(i) for i in sample["instances"]]})


@pytest.mark.parametrize("name", NAMES)
def test_the_training_pipeline_is_that_of_the_authors(name):
    config, want = config_of(name), SETTINGS[name]
    pipeline = config.train_dataloader.dataset.pipeline
    kinds = [step.type for step in pipeline]
    assert pipeline[kinds.index("LoadAnnotations")].get("with_mask", False) == (want.detector != "retinanet")
    assert pipeline[kinds.index("RandomFlip")].prob == 0.5
    metric = config.val_evaluator.metric
    assert metric == ("bbox" if want.detector == "retinanet" else ["bbox", "segm"])
    if not want.crops:
        (resize,) = [step for step in pipeline if step.type == "Resize"]
        assert resize.scale == (1333, 800) and resize.keep_ratio
        return
    whole, cropped = pipeline[kinds.index("RandomChoice")].transforms
    sides = [(480 + 32 * i, 1333) for i in range(11)]
    assert [step.type for step in whole] == ["RandomChoiceResize"] and whole[0].scales == sides
    assert [step.type for step in cropped] == ["RandomChoiceResize", "RandomCrop", "RandomChoiceResize"]
    assert cropped[0].scales == [(400, 1333), (500, 1333), (600, 1333)] and cropped[2].scales == sides
    assert cropped[1].crop_type == "absolute_range" and cropped[1].crop_size == (384, 600)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_tested_at_1333_by_800_at_most(name, sample):
    (resize,) = [s for s in config_of(name).test_dataloader.dataset.pipeline if s.type == "Resize"]
    assert resize.scale == (1333, 800) and resize.keep_ratio


@pytest.mark.parametrize(
    "name",
    [
        "retinanet_ravlt-tiny_fpn_1x_coco",
        "mask-rcnn_ravlt-tiny_fpn_1x_coco",
        "retinanet_l2vit-tiny_fpn_ms-crop-1x_coco",
        "mask-rcnn_ravlt-small_fpn_ms-crop-3x_coco",
    ],
)
def test_a_picture_runs_through_the_training_pipeline(name, sample):
    np.random.seed(0)
    want, sides = SETTINGS[name], set()
    for _ in range(6):
        out = run(config_of(name).train_dataloader.dataset.pipeline, sample)
        size = out["inputs"].shape[1:]
        sides.add(min(size))
        assert min(size) <= 800 and max(size) <= 1333
        found = out["data_samples"].gt_instances
        assert (
            len(found.bboxes)
            == len(found.labels)
            == (len(found.masks) if want.detector != "retinanet" else len(found.bboxes))
        )
    assert (len(sides) > 2) == want.crops, sides
    assert want.crops or sides == {800}
