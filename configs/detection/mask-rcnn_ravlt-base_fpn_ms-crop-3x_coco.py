"""Mask R-CNN, RAVLT-B, 36 epochs.

Command:   linzoo train-detection mask-rcnn_ravlt-base_fpn_ms-crop-3x_coco
Published: box AP 52.7, mask AP 46.4 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./mask-rcnn_ravlt-small_fpn_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_base", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
