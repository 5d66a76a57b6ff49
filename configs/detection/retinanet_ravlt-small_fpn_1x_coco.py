"""RetinaNet, RAVLT-S, 12 epochs.

Command:   linzoo train-detection retinanet_ravlt-small_fpn_1x_coco
Published: box AP 48.3 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./retinanet_ravlt-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_small", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
