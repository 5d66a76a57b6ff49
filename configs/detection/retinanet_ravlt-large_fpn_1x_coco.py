"""RetinaNet, RAVLT-L, 12 epochs.

Command:   linzoo train-detection retinanet_ravlt-large_fpn_1x_coco
Published: box AP 50.9 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./retinanet_ravlt-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_large", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
