"""Mask R-CNN, L2ViT-S, 12 epochs.

Command:   linzoo train-detection mask-rcnn_l2vit-small_fpn_ms-crop-1x_coco
Published: none in the authors' README (github.com/ChuanyangZheng/L2ViT)
Here:      not run
"""

_base_ = "./mask-rcnn_l2vit-tiny_fpn_ms-crop-1x_coco.py"
model = dict(
    backbone=dict(model_name="l2vit_small"),
)
