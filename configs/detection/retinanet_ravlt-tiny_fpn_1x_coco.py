"""RetinaNet, RAVLT-T, 12 epochs.

Command:   linzoo train-detection retinanet_ravlt-tiny_fpn_1x_coco
Published: box AP 45.9 (README of github.com/qhfan/RALA)
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
        model_name="ravlt_tiny",
        drop_path_rate=0.1,
        out_norms=1e-6,
        pretrained=True,  # ImageNet-1k weights from the Hugging Face hub
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale=512.0,
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
)
find_unused_parameters = True  # the norm of the first map, which the pyramid of RetinaNet leaves out
sync_bn = "torch"
