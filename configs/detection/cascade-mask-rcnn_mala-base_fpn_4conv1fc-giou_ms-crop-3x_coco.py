"""Cascade Mask R-CNN, MALA-B, 36 epochs.

Command:   linzoo train-detection cascade-mask-rcnn_mala-base_fpn_4conv1fc-giou_ms-crop-3x_coco
Published: none in the authors' README (github.com/qhfan/MALA)
Here:      not run
"""

_base_ = "./cascade-mask-rcnn_mala-small_fpn_4conv1fc-giou_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="mala_base", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
