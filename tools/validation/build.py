"""The model of a job, with its weights."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .jobs import Job

AVERAGE = ("state_dict_ema", "model_ema")  # where training scripts keep the moving average
PLAIN = ("state_dict", "model")


def build(job: Job, args: argparse.Namespace) -> nn.Module:
    """In eval mode, on the CPU.

    Raises: ValueError for weights that do not fit, or another class count than ``--num-classes``.
    """
    kwargs = {**args.model_kwargs, **({"global_pool": args.gp} if args.gp else {})}
    try:
        model = with_weights(job, args, kwargs).eval()
    except TypeError as error:  # an argument that the model's constructor does not have
        raise ValueError(f"--model-kwargs must be arguments of {job.model}: {error}") from error
    if job.checkpoint and args.num_classes and model.num_classes != args.num_classes:
        raise ValueError(
            f"--num-classes must be {model.num_classes} as in {job.checkpoint}, got {args.num_classes}"
        )
    return model


def with_weights(job: Job, args: argparse.Namespace, kwargs: Mapping[str, Any]) -> nn.Module:
    """Classes and input channels are the checkpoint's; without one, those of the flags."""
    import timm

    from ..models import model_with

    if job.checkpoint is not None:
        tensors = weights_of(job, args.use_ema, kwargs)
        return model_with(job.model, tensors, str(job.checkpoint), **kwargs)
    sizes = {"num_classes": args.num_classes, "in_chans": args.in_chans or (args.input_size or [None])[0]}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    return timm.create_model(job.model, pretrained=args.pretrained, **sizes, **kwargs)


def weights_of(job: Job, use_ema: bool, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The checkpoint's weights under our names: as a training left them, or with ``use_ema`` their average.

    Raises: ValueError when the average is asked for and the file has none, and as ``load_checkpoint``.
    """
    from ..models import fit_checkpoint, load_checkpoint

    whole = sections(job.checkpoint)
    average = next((whole[name] for name in AVERAGE if name in whole), None)
    plain = next((whole[name] for name in PLAIN if name in whole), None)
    if use_ema and average is None:
        raise ValueError(f"--use-ema: {job.checkpoint} must have {' or '.join(AVERAGE)}, and has neither")
    chosen = average if use_ema else plain
    if chosen is None or average is None:  # one set of weights
        return load_checkpoint(job.model, job.checkpoint, **kwargs)
    return fit_checkpoint(job.model, chosen, **kwargs)


def sections(path: Path) -> dict[str, Mapping]:
    """The mappings that a training checkpoint keeps by name; empty for any other file."""
    import argparse as known
    import pickle

    import torch

    if path.suffix == ".safetensors":
        return {}
    try:
        with torch.serialization.safe_globals([known.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        return {}  # load_checkpoint says what is wrong with it
    if not isinstance(content, Mapping):
        return {}
    return {k: v for k, v in content.items() if k in AVERAGE + PLAIN and isinstance(v, Mapping)}


def test_time_pool(model: nn.Module, config: dict) -> tuple[nn.Module, dict]:
    """timm's: the classifier at every place of the last map, then the mean; only above the model's own size.

    Raises: ValueError for a model with more than a mean between the last map and the classifier.
    """
    import torch
    from timm.layers import apply_test_time_pool

    with torch.inference_mode():
        body = model.forward_features(torch.randn(1, *config["input_size"]))
        bare = body.ndim == 4
        if bare:
            mean, head_input = body.mean((2, 3)), model.forward_head(body, pre_logits=True)
            bare = mean.shape == head_input.shape and (mean - head_input).norm() < 1e-3 * mean.norm()
    if not bare:
        raise ValueError(
            f"--test-pool needs a classifier on the mean of the last map, {type(model).__name__} has more "
            "in between"
        )
    pooled, applied = apply_test_time_pool(model, config)
    return pooled, {**config, "crop_pct": 1.0} if applied else config
