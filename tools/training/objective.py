"""The loss: timm's, chosen as timm's train.py does."""

from __future__ import annotations

import argparse

from timm.loss import BinaryCrossEntropy, JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from .loaders import mixing


def make_loss(args: argparse.Namespace) -> nn.Module:
    """(logits, classes or soft targets) -> scalar; with mixing, smoothing is in the mixed targets already."""
    binary = {
        "target_threshold": args.bce_target_thresh,
        "sum_classes": args.bce_sum,
        "pos_weight": args.bce_pos_weight,
    }
    if args.jsd_loss:
        return JsdCrossEntropy(num_splits=args.aug_splits, smoothing=args.smoothing)
    if args.bce_loss:
        return BinaryCrossEntropy(smoothing=0.0 if mixing(args) else args.smoothing, **binary)
    if mixing(args):
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing=args.smoothing) if args.smoothing else nn.CrossEntropyLoss()
