"""Cascade Mask R-CNN, RAVLT-L, 36 epochs.

Command:   linzoo train-detection cascade-mask-rcnn_ravlt-large_fpn_4conv1fc-giou_ms-crop-3x_coco
Published: box AP 55.6, mask AP 48.0 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./cascade-mask-rcnn_ravlt-small_fpn_4conv1fc-giou_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_large", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
