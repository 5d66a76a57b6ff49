"""RetinaNet, MALA-B, 12 epochs.

Command:   linzoo train-detection retinanet_mala-base_fpn_1x_coco
Published: none in the authors' README (github.com/qhfan/MALA)
Here:      not run
"""

_base_ = "./retinanet_mala-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="mala_base", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
