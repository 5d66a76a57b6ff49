"""RetinaNet, L2ViT-B, 36 epochs.

Command:   linzoo train-detection retinanet_l2vit-base_fpn_ms-crop-3x_coco
Published: none in the authors' README (github.com/ChuanyangZheng/L2ViT)
Here:      not run
"""

_base_ = "./retinanet_l2vit-tiny_fpn_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="l2vit_base", drop_path_rate=0.3),
    neck=dict(in_channels=[256, 512, 1024]),
)
