"""Mask R-CNN, RAVLT-L, 36 epochs.

Command:   linzoo train-detection mask-rcnn_ravlt-large_fpn_ms-crop-3x_coco
Published: box AP 53.6, mask AP 47.3 (README of github.com/qhfan/RALA)
Here:      not run
"""

_base_ = "./mask-rcnn_ravlt-small_fpn_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="ravlt_large", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 picture
