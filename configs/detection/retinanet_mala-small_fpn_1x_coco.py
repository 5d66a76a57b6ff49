"""RetinaNet, MALA-S, 12 epochs.

Command:   linzoo train-detection retinanet_mala-small_fpn_1x_coco
Published: none in the authors' README (github.com/qhfan/MALA)
Here:      not run
"""

_base_ = "./retinanet_mala-tiny_fpn_1x_coco.py"
model = dict(
    backbone=dict(model_name="mala_small", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
