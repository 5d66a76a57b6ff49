"""The model of a job, with its weights."""

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..checkpoint_flags import trained_with
from .jobs import Job

AVERAGE = ("state_dict_ema", "model_ema")  # where training scripts keep the moving average
PLAIN = ("state_dict", "model")
ADOPTED = ("model_kwargs", "gp", "img_size", "input_size", "mean", "std", "crop_pct", "interpolation")


def adopt(args: argparse.Namespace, content: Mapping[str, Any]) -> tuple[argparse.Namespace, dict]:
    """The flags, where not given as they were in the training that wrote this checkpoint; and what was taken.

    Args:
        content: of a checkpoint; only those of ``linzoo train`` say how they were trained.
    """
    saved = trained_with(content)
    names = list(ADOPTED)
    if args.img_size or args.input_size:
        names = [name for name in names if name not in ("img_size", "input_size")]
    taken = {name: saved[name] for name in names if not getattr(args, name) and saved.get(name)}
    return argparse.Namespace(**{**vars(args), **taken}), taken


def build(job: Job, args: argparse.Namespace, content: Mapping[str, Any]) -> nn.Module:
    """In eval mode, on the CPU.

    Args:
        content: of the job's checkpoint, where it is one of a training.
    Raises: ValueError for weights that do not fit, or another class count than ``--num-classes``.
    """
    kwargs = {**args.model_kwargs, **({"global_pool": args.gp} if args.gp else {})}
    try:
        model = with_weights(job, args, content, kwargs).eval()
    except TypeError as error:  # an argument that the model's constructor does not have
        raise ValueError(f"--model-kwargs must be arguments of {job.model}: {error}") from error
    if job.checkpoint and args.num_classes and model.num_classes != args.num_classes:
        raise ValueError(
            f"--num-classes must be {model.num_classes} as in {job.checkpoint}, got {args.num_classes}"
        )
    return model


def with_weights(
    job: Job, args: argparse.Namespace, content: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> nn.Module:
    """Classes and input channels are the checkpoint's; without one, those of the flags."""
    import timm

    from ..models import model_with

    if job.checkpoint is not None:
        tensors = weights_of(job, args.use_ema, content, kwargs)
        return model_with(job.model, tensors, str(job.checkpoint), **kwargs)
    sizes = {"num_classes": args.num_classes, "in_chans": args.in_chans or (args.input_size or [None])[0]}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    return timm.create_model(job.model, pretrained=args.pretrained, **sizes, **kwargs)


def weights_of(
    job: Job, use_ema: bool, content: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The checkpoint's weights under our names: as a training left them, or with ``use_ema`` their average.

    Raises: ValueError when the average is asked for and the file has none, and as ``load_checkpoint``.
    """
    from ..models import fit_checkpoint, load_checkpoint

    average, plain = (
        next((content[name] for name in names if isinstance(content.get(name), Mapping)), None)
        for names in (AVERAGE, PLAIN)
    )
    if use_ema and average is None:
        raise ValueError(f"--use-ema: {job.checkpoint} must have {' or '.join(AVERAGE)}, and has neither")
    chosen = average if use_ema else plain
    if chosen is None or average is None:  # one set of weights
        chosen = content
    if not chosen:  # safetensors, or a file that says here what is wrong with it
        return load_checkpoint(job.model, job.checkpoint, **kwargs)
    return fit_checkpoint(job.model, chosen, **kwargs)


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
