"""mmdetection's Mask R-CNN on a LinzooBackbone; who inherits this names the model and its widths."""

_base_ = __import__("linzoo.configs.mmdet_bases", fromlist=["_"]).mmdet_base("models/mask-rcnn_r50_fpn.py")
model = dict(
    backbone=dict(_delete_=True, type="LinzooBackbone", out_indices=(0, 1, 2, 3)),
)
