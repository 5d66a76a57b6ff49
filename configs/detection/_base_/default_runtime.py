"""mmdetection's runtime; the import registers LinzooBackbone and stands in for mmcv's compiled ops."""

_base_ = __import__("linzoo.configs.mmdet_bases", fromlist=["_"]).mmdet_base("default_runtime.py")
custom_imports = dict(imports=["linzoo.vision.detection"], allow_failed_imports=False)
