"""From a variant table to timm's builder."""

import argparse
from functools import partial

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn

from .backbone import Backbone
from .timm_model import TimmModel
from .weights import Official, filter_checkpoint


def pretrained_cfg(**fields) -> dict:
    """timm's ``PretrainedCfg`` fields for an ImageNet-1k model at 224: resize 256, bicubic, centre crop."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv0",
        "classifier": "head",
        **fields,
    }


def build(
    model_cls: type[TimmModel],
    name: str,
    pretrained: bool,
    official: Official,
    fixed: dict,
    given: dict,
) -> nn.Module:
    """A model through timm's builder: the variant's keyword arguments, overridden by the caller's.

    Args:
        model_cls: Pyramid or another Backbone, or an Isotropic.
        name: registered name.
        pretrained: load the weights that the model's ``pretrained_cfg`` names.
        official: the family's, with which timm's loading and ``load_state_dict`` take the authors' files.
        fixed, given: keyword arguments of the variant and of the caller.
    """
    feature_cfg = {"out_indices": model_cls.feature_indices, "feature_cls": "getter"}
    if "feature_cls" in given and issubclass(
        model_cls, Backbone
    ):  # timm's other extractors look for "stages.0" one level down
        feature_cfg["flatten_sequential"] = True

    def make(**kwargs) -> TimmModel:
        model = model_cls(**kwargs)
        model.official = official
        return model

    # timm allows a training script's argparse.Namespace beside the weights in a file, but not behind a url
    with torch.serialization.safe_globals([argparse.Namespace]):
        return build_model_with_cfg(
            make,
            name,
            pretrained,
            pretrained_filter_fn=partial(filter_checkpoint, official=official),
            feature_cfg=feature_cfg,
            **{**fixed, **given},
        )
