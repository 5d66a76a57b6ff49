"""Mask R-CNN, RAVLT-T, 12 epochs.

Command:   linzoo train-detection mask-rcnn_ravlt-tiny_fpn_1x_coco
Published: box AP 47.3, mask AP 42.7 (README of github.com/qhfan/RALA)
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
        model_name="ravlt_tiny",
        drop_path_rate=0.1,
        out_norms=1e-6,
        pretrained=True,  # ImageNet-1k weights from the Hugging Face hub
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# the authors' stem has norms without "norm" in their names: those are decayed
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0), "stem.norm": dict(decay_mult=1.0)}),
)
sync_bn = "torch"
