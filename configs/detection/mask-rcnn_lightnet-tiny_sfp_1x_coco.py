"""Mask R-CNN, LightNet-T, 12 epochs.

Command:   linzoo train-detection mask-rcnn_lightnet-tiny_sfp_1x_coco
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
    backbone=dict(
        model_name="lightnet_tiny",
        out_indices=(11,),  # the last of twelve blocks
        drop_path_rate=0.1,
        pretrained=False,  # none published: --cfg-options model.backbone.pretrained=FILE
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        in_channels=[192],
        in_strides=[16],
        out_strides=(4, 8, 16, 32, 64),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}, norm_decay_mult=0.0))
