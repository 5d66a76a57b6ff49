"""Mask R-CNN, MALA-S, 36 epochs.

Command:   linzoo train-detection mask-rcnn_mala-small_fpn_ms-crop-3x_coco
Published: none in the authors' README (github.com/qhfan/MALA)
Here:      not run
"""

_base_ = [
    "./_base_/mask-rcnn_fpn.py",
    "./_base_/coco_instance_ms-crop.py",
    "./_base_/schedule_3x.py",
    "./_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        model_name="mala_small",
        drop_path_rate=0.15,
        out_norms=1e-6,
        pretrained=False,  # no address is known: --cfg-options model.backbone.pretrained=FILE
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# the authors' stem has norms without "norm" in their names: those are decayed
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    optimizer=dict(lr=4e-4),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0), "stem.norm": dict(decay_mult=1.0)}),
)
sync_bn = "torch"
