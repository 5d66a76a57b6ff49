"""``linzoo predict IMAGE -m NAME``: what a model sees in pictures, with timm's flags and transforms."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

# what a run's validation pictures were made with, in the words that timm's data configuration takes
DATA = ("img_size", "input_size", "mean", "std", "crop_pct", "interpolation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="picture files")
    parser.add_argument("-m", "--model", required=True, metavar="NAME", help="see `linzoo list`")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights: the authors' file or ours")
    weights.add_argument("--pretrained", action="store_true", help="fetch published weights (network)")
    weights.add_argument("--random-weights", action="store_true", help="run untrained, to try the command")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes a picture (default 5)")
    parser.add_argument("--num-classes", type=int, metavar="N", help="default: what the weights say")
    parser.add_argument("--class-map", type=Path, metavar="FILE", help="names: .txt one a line, or .json")
    parser.add_argument("--img-size", type=int, metavar="PX", help="side (default: the model's own)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--output-type", choices=("text", "json", "csv"), default="text")


def run(args: argparse.Namespace) -> int:
    if args.topk < 1:
        raise ValueError(f"--topk must be at least 1, got {args.topk}")
    for flag, value in (("--num-classes", args.num_classes), ("--img-size", args.img_size)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}")
    for image in args.images:
        if not image.is_file():
            what = "a folder" if image.is_dir() else "not there"
            raise FileNotFoundError(f"IMAGE must be a picture file, {image} is {what}")
    if not (args.checkpoint or args.pretrained or args.random_weights):
        raise ValueError(no_weights_message(args.model))
    if args.random_weights:
        print(f"linzoo predict: {args.model} has random weights: its classes mean nothing", file=sys.stderr)
    rows = predict(args)
    if args.output_type == "json":
        print(json.dumps(rows, indent=2))
    elif args.output_type == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "rank", "index", "label", "probability"])
        for row in rows:
            for rank, top in enumerate(row["top"], 1):
                writer.writerow([row["image"], rank, top["index"], top["label"], f"{top['probability']:.6f}"])
    else:
        for row in rows:
            print(row["image"])
            for top in row["top"]:
                print(f"  {100 * top['probability']:6.2f} %  {top['index']:>5}  {top['label']}")
    return 0


def usable_device(name: str) -> torch.device:
    """The device called ``name``. Raises: ValueError when there is no such device here."""
    import torch

    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        reason = (
            str(error).partition("\n")[0].partition(". ")[0]
        )  # torch goes on with its backends, for pages
        raise ValueError(f"--device must be a device of this machine, got {name!r}: {reason}") from error


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU if there is one."""
    import torch

    return usable_device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def no_weights_message(name: str) -> str:
    from .models import check_name, meta_model, weights_origin

    origin = weights_origin(meta_model(check_name(name)).pretrained_cfg)
    return (
        f"{name} needs weights: --checkpoint FILE, or --pretrained ({origin}), "
        "or --random-weights to run it untrained"
    )


def predict(args: argparse.Namespace) -> list[dict]:
    import torch
    from PIL import Image, UnidentifiedImageError
    from timm.data import create_transform

    from .checkpoint_flags import trained_with, training_checkpoint
    from .validation.pictures import data_config

    content = training_checkpoint(args.checkpoint)
    trained = trained_with(content)
    model = build(args, content, trained).to(usable_device(args.device)).eval()
    given = {name: trained.get(name) for name in DATA}
    if args.img_size:
        given |= {"img_size": args.img_size, "input_size": None}
    data = data_config(model, argparse.Namespace(**given, in_chans=None, use_train_size=False))
    transform = create_transform(**data, is_training=False)
    labels = class_names(args.class_map, model)
    rows = []
    for path in args.images:
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB" if data["input_size"][0] == 3 else "L")
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is not a picture that Pillow can read") from error
        except (OSError, SyntaxError) as error:  # truncated, or (SyntaxError) a broken PNG
            raise OSError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        with torch.inference_mode():
            probabilities = model(transform(picture).unsqueeze(0).to(args.device)).softmax(-1)[0]
        values, indices = probabilities.topk(min(args.topk, probabilities.numel()))
        pairs = zip(values.tolist(), indices.tolist(), strict=True)
        top = [{"index": i, "label": labels.get(i, f"class {i}"), "probability": p} for p, i in pairs]
        weights = "random" if args.random_weights else str(args.checkpoint or "published")
        rows.append({"image": str(path), "model": args.model, "weights": weights, "top": top})
    return rows


def build(args: argparse.Namespace, content: Mapping[str, Any], trained: Mapping[str, Any]) -> nn.Module:
    """The model with its weights.

    Args:
        content: of the checkpoint, as ``training_checkpoint`` read it.
        trained: flags of the run that wrote it, where known.
    """
    import timm

    from .models import check_name, fit_checkpoint, has_published_weights, load_checkpoint, model_with

    check_name(args.model)
    if args.pretrained and not has_published_weights(args.model):
        raise ValueError(
            f"--pretrained: no published weights are known for {args.model}; use --checkpoint FILE"
        )
    if not args.checkpoint:
        kwargs = {"num_classes": args.num_classes} if args.num_classes else {}
        return timm.create_model(args.model, pretrained=args.pretrained, **kwargs)
    kwargs = dict(trained.get("model_kwargs") or {}) if trained.get("model") == args.model else {}
    if trained.get("gp"):
        kwargs["global_pool"] = trained["gp"]
    if content:
        weights = fit_checkpoint(args.model, content, **kwargs)
    else:  # safetensors, or a file that says here what is wrong with it
        weights = load_checkpoint(args.model, args.checkpoint, **kwargs)
    model = model_with(args.model, weights, str(args.checkpoint), **kwargs)
    if args.num_classes and model.num_classes != args.num_classes:
        raise ValueError(
            f"--num-classes must be {model.num_classes} as in {args.checkpoint}, got {args.num_classes}"
        )
    return model


def class_names(path: Path | None, model: nn.Module) -> dict[int, str]:
    """Index to name: from a file, else ImageNet's for a model that was published with ImageNet's classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if path is not None:
        return read_class_map(path)
    subset = infer_imagenet_subset(model)
    return {} if subset is None else dict(enumerate(ImageNetInfo(subset).label_descriptions()))


def read_class_map(path: Path) -> dict[int, str]:
    """``.txt``: one name a line; ``.json``: a list of names, or an object name -> index.

    Raises: FileNotFoundError; ValueError for another suffix or content.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--class-map must be a file, {path} is not there")
    if path.suffix == ".txt":
        return dict(enumerate(path.read_text(encoding="utf-8").splitlines()))
    if path.suffix != ".json":
        raise ValueError(f"--class-map must end in .txt or .json, got {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--class-map: {path} is not JSON: {error}") from error
    if isinstance(content, dict) and all(type(v) is int for v in content.values()):
        return {index: name for name, index in content.items()}
    if isinstance(content, list) and all(isinstance(v, str) for v in content):
        return dict(enumerate(content))
    raise ValueError(f"--class-map: {path} must hold a list of names or an object name -> index")
