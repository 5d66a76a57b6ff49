"""COCO 2017, boxes; pictures resized to 1333 x 800 at most."""

_base_ = __import__("linzoo.configs.mmdet_bases", fromlist=["_"]).mmdet_base("datasets/coco_detection.py")
