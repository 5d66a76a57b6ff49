"""RetinaNet, InLine-Swin-T, 12 epochs.

Command:   linzoo train-detection retinanet_inline-swin-tiny_fpn_1x_coco
Published: none; the settings are ours
Here:      not run
"""

_base_ = [
    "./_base_/retinanet_fpn.py",
    "./_base_/coco_detection.py",
    "./_base_/schedule_1x.py",
    "./_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        model_name="inline_swin_tiny",
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        out_norms=1e-5,
        pretrained=False,  # no address is known: --cfg-options model.backbone.pretrained=FILE
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}, norm_decay_mult=0.0))
