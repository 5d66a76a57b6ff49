"""Mask R-CNN, RAVLT-L, 12 epochs.

Command:   linzoo train-detection mask-rcnn_ravlt-large_fpn_1x_coco
Published: box AP 52.3, mask AP 46.4 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./mask-rcnn_ravlt-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_large", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
