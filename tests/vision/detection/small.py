"""Small detectors for tests: mmdetection's RetinaNet and Mask R-CNN on slim backbones, as config files."""

from pathlib import Path

import mmdet
import torch
from mmengine.config import Config

from .coco_set import CLASSES, CocoSet

BASES = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_"
SIDE = 96  # pixels

_PYRAMID = {"dims": (16, 32, 48, 64), "heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1)}
# one size of each family, cut down; and the pyramid's strides where the backbone's do not serve
BACKBONES = {
    "ravlt_tiny": _PYRAMID,
    "mala_tiny": _PYRAMID,
    "nalaformer_tiny": _PYRAMID,
    "l2vit_tiny": {"dims": (16, 32, 48, 64), "heads": (1, 2, 3, 4), "depths": (2, 2, 2, 2)},
    "inline_swin_tiny": _PYRAMID,
    "lightnet_tiny": {"embed_dim": 48, "num_heads": 3, "depth": 2, "out_indices": (1,)},
    "efficientvim_m1": {"embed_dim": (32, 48, 64), "depths": (1, 1, 1)},
}


def neck(
    channels: tuple[int, ...], strides: tuple[int, ...], levels: tuple[int, ...], width: int = 32
) -> dict:
    """mmdetection's FPN behind strides 4 to 32, ours behind others."""
    if strides == (4, 8, 16, 32):
        first = strides.index(levels[0])
        extra = {"add_extra_convs": "on_input"} if first else {}
        kind = {"type": "FPN", "start_level": first, "num_outs": len(levels), **extra}
        return {**kind, "in_channels": list(channels), "out_channels": width}
    return {
        "type": "SimpleFeaturePyramid",
        "in_channels": list(channels),
        "in_strides": list(strides),
        "out_channels": width,
        "out_strides": list(levels),
    }


def model_settings(kind: str, backbone: dict, classes: int = len(CLASSES)) -> dict:
    """What differs from mmdetection's ``kind`` ("retinanet", "mask-rcnn"), for two narrow classes."""
    from mmdet.registry import MODELS

    import linzoo.vision.detection  # noqa: F401

    backbone = {"type": "LinzooBackbone", **backbone}
    built = MODELS.build(backbone)
    preprocessor = {"pad_size_divisor": max(32, built.out_strides[-1])}
    shared = {"backbone": {"_delete_": True, **backbone}, "data_preprocessor": preprocessor}
    if kind == "retinanet":
        head = {"num_classes": classes, "in_channels": 32, "feat_channels": 32, "stacked_convs": 1}
        levels = (8, 16, 32, 64, 128)
        return shared | {"neck": {"_delete_": True, **neck(built.out_channels, built.out_strides, levels)},
                         "bbox_head": head, "test_cfg": {"score_thr": 0.0}}  # fmt: skip
    roi = {"in_channels": 32, "fc_out_channels": 64, "num_classes": classes}
    mask = {"in_channels": 32, "conv_out_channels": 16, "num_convs": 1, "num_classes": classes}
    extractor = {"out_channels": 32}
    levels = (4, 8, 16, 32, 64)
    return shared | {
        "neck": {"_delete_": True, **neck(built.out_channels, built.out_strides, levels)},
        "rpn_head": {"in_channels": 32, "feat_channels": 32},
        "roi_head": {
            "bbox_roi_extractor": extractor,
            "bbox_head": roi,
            "mask_roi_extractor": extractor,
            "mask_head": mask,
        },
        "train_cfg": {"rpn_proposal": {"max_per_img": 64}, "rcnn": {"sampler": {"num": 32}}},
        "test_cfg": {"rpn": {"max_per_img": 32}, "rcnn": {"score_thr": 0.0}},
    }


def write_config(
    path: Path, data: CocoSet, kind: str = "retinanet", backbone: dict | None = None, iterations: int = 2,
    batch: int = 4, **settings,
) -> Path:  # fmt: skip
    """A config file that trains on ``data``; ``settings`` are added at its end and win."""
    backbone = backbone or {"model_name": "ravlt_tiny", **_PYRAMID}
    masks = kind == "mask-rcnn"
    load = [{"type": "LoadImageFromFile"}]
    resize = [{"type": "Resize", "scale": (SIDE, SIDE), "keep_ratio": True}]
    truth = [{"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks, "poly2mask": True}]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    dataset = {
        "type": "CocoDataset",
        "data_root": "",
        "ann_file": str(data.annotations),
        "data_prefix": {"img": f"{data.images}/"},
        "metainfo": {"classes": CLASSES},
    }
    loader = {"num_workers": 0, "persistent_workers": False}
    train = {**dataset, "_delete_": True, "pipeline": [*load, *truth, *resize, {"type": "PackDetInputs"}]}
    test = {
        **dataset,
        "_delete_": True,
        "test_mode": True,
        "pipeline": [*load, *resize, *truth, {"type": "PackDetInputs", "meta_keys": keys}],
    }
    content = {
        "_base_": [
            str(BASES / "models" / f"{kind}_r50_fpn.py"),
            str(BASES / "datasets" / f"coco_{'instance' if masks else 'detection'}.py"),
            str(BASES / "default_runtime.py"),
        ],
        "custom_imports": {"imports": ["linzoo.vision.detection"], "allow_failed_imports": False},
        "model": model_settings(kind, backbone),
        # mmengine sleeps for two seconds whenever a finite sampler begins again
        "train_dataloader": {
            **loader,
            "batch_size": batch,
            "sampler": {"_delete_": True, "type": "InfiniteSampler", "shuffle": False},
            "dataset": train,
        },
        "val_dataloader": {**loader, "dataset": test},
        "test_dataloader": {**loader, "dataset": test},
        "val_evaluator": {"ann_file": str(data.annotations)},
        "test_evaluator": {"ann_file": str(data.annotations)},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_interval": iterations},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": 2e-3, "weight_decay": 0.05},
            "clip_grad": {"max_norm": 5.0},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 5}
        ],
        "auto_scale_lr": {"enable": False, "base_batch_size": 8},
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        "log_processor": {"type": "LogProcessor", "window_size": 1, "by_epoch": False},
        "randomness": {"seed": 0},
        **settings,
    }
    path.write_text("\n".join(f"{key} = {value!r}" for key, value in content.items()) + "\n")
    return path


def write_weights(path: Path, config: Path, **content) -> Path:
    """A checkpoint of the config's untrained detector; ``content`` is added to it."""
    from mmdet.registry import MODELS as registry
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = registry.build(Config.fromfile(str(config)).model)
    torch.save({"state_dict": model.state_dict(), "meta": {}, **content}, path)
    return path
