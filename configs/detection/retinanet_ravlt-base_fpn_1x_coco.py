"""RetinaNet, RAVLT-B, 12 epochs.

Command:   linzoo train-detection retinanet_ravlt-base_fpn_1x_coco
Published: box AP 49.8 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./retinanet_ravlt-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_base", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
