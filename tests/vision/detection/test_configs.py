"""Packaged configs, cut down in depth only: a detector of every kind of config has losses and finds boxes."""

import pytest
import torch

pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")

import linzoo.vision.detection  # noqa: F401  before mmdet's models are imported
from linzoo.tools.detection.config import read_config

from mmdet.registry import MODELS  # isort: skip
from mmdet.testing import demo_mm_inputs  # isort: skip
from mmdet.utils import register_all_modules  # isort: skip

FEW_BOXES = ["model.train_cfg.rpn_proposal.max_per_img=16", "model.test_cfg.rpn.max_per_img=8"]
# fewer blocks, fewer boxes for the second stage; every width, norm, neck and head is the config's
SHALLOW = {
    "retinanet_ravlt-tiny_fpn_1x_coco": ["model.backbone.depths=1,1,1,1"],
    "cascade-mask-rcnn_mala-small_fpn_4conv1fc-giou_ms-crop-3x_coco": ["model.backbone.depths=1,1,1,1"],
    "mask-rcnn_l2vit-tiny_fpn_ms-crop-1x_coco": ["model.backbone.depths=2,2,2,2"],
    "retinanet_lightnet-tiny_sfp_1x_coco": ["model.backbone.depth=1", "model.backbone.out_indices=0,"],
    "mask-rcnn_efficientvim-m1_sfp_1x_coco": [],
}


@pytest.fixture(autouse=True, scope="module")
def _scope():
    register_all_modules(init_default_scope=True)


@pytest.mark.parametrize("name", SHALLOW)
def test_a_packaged_config_trains_and_predicts(name):
    masks = "mask" in name
    config = read_config(name, SHALLOW[name] + FEW_BOXES * masks)
    from mmengine.model import revert_sync_batchnorm

    model = revert_sync_batchnorm(MODELS.build(config.model))  # as mmengine does without a GPU
    batch = demo_mm_inputs(2, [(3, 64, 96)] * 2, num_items=[2, 1], num_classes=80, with_mask=masks)
    data = model.data_preprocessor(batch, training=True)
    losses, log = model.train().parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(losses) and ("loss_mask" in str(list(log))) == masks
    losses.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 50 and all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.inference_mode():
        found = model.eval()(**model.data_preprocessor(batch, training=False), mode="predict")
    assert len(found) == 2
    for sample in found:
        boxes = sample.pred_instances.bboxes
        assert boxes.shape[1] == 4 and torch.isfinite(boxes).all()
        assert ("masks" in sample.pred_instances) == masks
