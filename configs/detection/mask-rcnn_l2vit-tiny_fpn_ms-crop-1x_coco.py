"""Mask R-CNN, L2ViT-T, 12 epochs.

Command:   linzoo train-detection mask-rcnn_l2vit-tiny_fpn_ms-crop-1x_coco
Published: none in the authors' README (github.com/ChuanyangZheng/L2ViT)
Here:      not run
"""

_base_ = [
    "./_base_/mask-rcnn_fpn.py",
    "./_base_/coco_instance_ms-crop.py",
    "./_base_/schedule_1x.py",
    "./_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        model_name="l2vit_tiny",
        drop_path_rate=0.1,
        out_norms=1e-5,
        pretrained=True,  # ImageNet-1k weights from the authors' release
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
