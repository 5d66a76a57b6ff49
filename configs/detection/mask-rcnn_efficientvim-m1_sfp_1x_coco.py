"""Mask R-CNN, EfficientViM-M1, 12 epochs.

Command:   linzoo train-detection mask-rcnn_efficientvim-m1_sfp_1x_coco
Published: none; the settings are ours
Here:      not run
"""

_base_ = [
    "./_base_/mask-rcnn_fpn.py",
    "./_base_/coco_instance.py",
    "./_base_/schedule_1x.py",
    "./_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(
        model_name="efficientvim_m1",
        out_indices=(0, 1, 2),
        pretrained=True,  # timm's ImageNet-1k weights from the Hugging Face hub
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        in_channels=[128, 192, 320],
        in_strides=[16, 32, 64],
        out_strides=(4, 8, 16, 32, 64),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}, norm_decay_mult=0.0))
sync_bn = "torch"
