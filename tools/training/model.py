"""Building the model: timm's arguments, weights to start from, a new head where the classes differ."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

import timm
import torch
from timm.layers import convert_splitbn_model, set_fast_norm
from timm.models import adapt_input_conv, model_entrypoint
from torch import Tensor, nn

from ..models import check_name, has_published_weights
from .datasets import channels


def build_model(args: argparse.Namespace, num_classes: int) -> tuple[nn.Module, list[str]]:
    """The model on the CPU, and lines to log about what it starts from.

    Raises: ValueError for an unknown name or argument, FileNotFoundError, and ValueError for a file of
        another model.
    """
    check_name(args.model)
    if args.pretrained and not args.pretrained_path and not has_published_weights(args.model):
        raise ValueError(
            f"--pretrained: no published weights are known for {args.model}; use --initial-checkpoint FILE"
        )
    if args.fast_norm:
        set_fast_norm()
    model = create(args, num_classes)
    lines = []
    file = args.pretrained_path or args.initial_checkpoint
    if file:
        lines = load_initial(model, args.model, Path(file))
    fit_input_size(model, args)
    scale_head(model, args)
    if args.grad_checkpointing:
        try:
            model.set_grad_checkpointing(enable=True)
        except (AssertionError, AttributeError) as error:
            raise ValueError(f"--grad-checkpointing is not known to {args.model}") from error
    if args.split_bn:
        model = convert_splitbn_model(model, max(args.aug_splits, 2))
    return model, lines


def create(args: argparse.Namespace, num_classes: int) -> nn.Module:
    words = {
        "num_classes": num_classes,
        "in_chans": channels(args),
        "drop_rate": args.drop,
        "drop_path_rate": args.drop_path,
        "drop_block_rate": args.drop_block,
        "global_pool": args.gp,
        "bn_momentum": args.bn_momentum,
        "bn_eps": args.bn_eps,
    }
    try:
        return timm.create_model(
            args.model, pretrained=args.pretrained and not args.pretrained_path, **words | args.model_kwargs
        )
    except OSError as error:
        if not args.pretrained:
            raise
        raise OSError(
            f"--pretrained: the published weights of {args.model} cannot be fetched, "
            f"--initial-checkpoint FILE takes a file ({error})"
        ) from error
    except (TypeError, AssertionError) as error:  # an argument or a value that the model does not have
        given = ", ".join(k for k, v in (words | args.model_kwargs).items() if v is not None)
        raise ValueError(f"--model-kwargs must suit {args.model}, got {given}: {error}") from error


def load_initial(model: nn.Module, name: str, path: Path) -> list[str]:
    """Load a file of the authors, of timm or of ours; a classifier of another size stays new.

    Returns: lines to log. Raises: FileNotFoundError; ValueError naming what is missing or foreign.
    """
    from ...vision.weights import load_official

    if not path.is_file():
        raise FileNotFoundError(f"--initial-checkpoint must be a file, {path} is not there")
    tensors = load_official(path)
    adapt = getattr(sys.modules[model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        try:
            tensors = adapt(tensors, model)
        except ValueError as error:
            raise ValueError(f"{path} does not fit {name}: {error}") from error
    want = model.state_dict()
    lines = [f"Weights of {path}"]
    for key in as_names(model.pretrained_cfg.get("first_conv")):
        weight = tensors.get(f"{key}.weight")
        if weight is not None and weight.shape[1] != want[f"{key}.weight"].shape[1]:
            tensors[f"{key}.weight"] = adapt_input_conv(want[f"{key}.weight"].shape[1], weight)
    heads = tuple(f"{key}." for key in as_names(model.pretrained_cfg.get("classifier")))
    new = [k for k in want if k.startswith(heads) and (k not in tensors or tensors[k].shape != want[k].shape)]
    if new:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(heads)}
        new = [key for key in want if key.startswith(heads)]
        lines.append(f"The classifier is new ({', '.join(new)}): another number of classes than in the file")
    check_fit(name, path, want, tensors, new)
    model.load_state_dict(tensors, strict=False)
    return lines


def as_names(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def check_fit(
    name: str, path: Path, want: dict[str, Tensor], have: dict[str, Tensor], new: list[str]
) -> None:
    faults = [f"missing {key}" for key in want.keys() - have.keys() - set(new)]
    faults += [f"unexpected {key}" for key in have.keys() - want.keys()]
    faults += [
        f"{key} is {tuple(have[key].shape)}, must be {tuple(want[key].shape)}"
        for key in want.keys() & have.keys()
        if want[key].shape != have[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{path} does not fit {name}: {'; '.join(sorted(faults)[:3])}{more}")


def fit_input_size(model: nn.Module, args: argparse.Namespace) -> None:
    """Models with a fixed input size (position tables, windows) are resized; the others simply run."""
    side = tuple(args.input_size[1:]) if args.input_size else (args.img_size, args.img_size)
    if side[0] is None or "img_size" in args.model_kwargs or not hasattr(model, "set_input_size"):
        return
    if "img_size" in inspect.signature(model.set_input_size).parameters:
        model.set_input_size(img_size=side)
    else:
        model.set_input_size(side)


@torch.no_grad()
def scale_head(model: nn.Module, args: argparse.Namespace) -> None:
    head = model.get_classifier()
    if args.head_init_scale is not None:
        head.weight.mul_(args.head_init_scale)
        head.bias.mul_(args.head_init_scale)
    if args.head_init_bias is not None:
        nn.init.constant_(head.bias, args.head_init_bias)
