"""RetinaNet, L2ViT-T, 36 epochs.

Command:   linzoo train-detection retinanet_l2vit-tiny_fpn_ms-crop-3x_coco
Published: none in the authors' README (github.com/ChuanyangZheng/L2ViT)
Here:      not run
"""

_base_ = [
    "./_base_/retinanet_fpn.py",
    "./_base_/coco_detection_ms-crop.py",
    "./_base_/schedule_3x.py",
    "./_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        model_name="l2vit_tiny",
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        out_norms=1e-5,
        pretrained=True,  # ImageNet-1k weights from the authors' release
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
