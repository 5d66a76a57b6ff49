"""The arguments of ``linzoo validate``: names and meanings of timm's validate.py.

What timm does not have is marked "(ours)".
"""

import argparse
from pathlib import Path

from ..training.argument_kinds import Group, KeyValues


def add_data(group: Group) -> None:
    add = group.add_argument
    add("data", nargs="?", metavar="DIR", help="the data set's folder or tar file; the same as --data-dir")
    add("--data-dir", metavar="DIR", help="folder with a folder a split, or with a folder a class")
    add("--dataset", default="", metavar="NAME", help="'digits' (ours, built in), torch/, hfds/, wds/, ...")
    add("--split", default="validation", metavar="NAME", help="default validation")
    add("--num-samples", type=int, metavar="N", help="samples of a stream (wds/, hfids/)")
    add("--dataset-download", action="store_true", help="fetch the data set, where its source can (network)")
    add(
        "--class-map",
        default="",
        metavar="FILE",
        help="class names, one a line, in the order of their numbers",
    )
    add("--input-key", metavar="KEY", help="the picture's key in a sample (hfds/, wds/)")
    add("--input-img-mode", metavar="MODE", help="Pillow's mode (default: RGB, or L for 1 channel)")
    add("--target-key", metavar="KEY", help="the class's key in a sample")
    add("--real-labels", metavar="FILE", help="ImageNet's reassessed labels (json); 'timm': those in timm")
    add(
        "--valid-labels", type=Path, metavar="FILE", help="class numbers, one a line: only these logits count"
    )


def add_model(group: Group) -> None:
    add = group.add_argument
    add(
        "-m", "--model", required=True, metavar="NAME",
        help="a model, a wildcard such as 'ravlt_*', or a file with a name (and a checkpoint) a line",
    )  # fmt: skip
    weights = group.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="fetch published weights (network)")
    weights.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="weights: the authors' file, ours, or a training checkpoint; or a folder of them",
    )  # fmt: skip
    weights.add_argument("--random-weights", action="store_true", help="run untrained (ours)")
    add("--use-ema", action="store_true", help="the checkpoint's moving average (default: the weights)")
    add("--num-classes", type=int, metavar="N", help="default: what the weights say")
    add("--gp", metavar="POOL", help="global pooling: avg, max, avgmax, ...")
    add(
        "--model-kwargs", nargs="*", default={}, action=KeyValues, metavar="K=V", help="the model's arguments"
    )
    add("--test-pool", action="store_true", help="timm's test time pooling, above the model's own size")


def add_input(group: Group) -> None:
    add = group.add_argument
    add("--img-size", type=int, metavar="PX", help="side of the input (default: the model's own)")
    add("--in-chans", type=int, metavar="N", help="channels of the input (default: the model's own)")
    add("--input-size", type=int, nargs=3, metavar=("C", "H", "W"), help="the input's full size")
    add("--use-train-size", action="store_true", help="the size of training, where that of testing differs")
    add("--crop-pct", type=float, metavar="X", help="part of the side that the crop keeps")
    add("--crop-mode", choices=("squash", "border", "center"), help="default: the model's own")
    add("--crop-border-pixels", type=int, metavar="N", help="pixels cropped at every side")
    add("--mean", type=float, nargs="+", metavar="X", help="mean of each channel, from 0 to 1")
    add("--std", type=float, nargs="+", metavar="X", help="deviation of each channel")
    add("--interpolation", default="", metavar="NAME", help="resizing (default: the model's own)")


def add_run(group: Group) -> None:
    add = group.add_argument
    add("-b", "--batch-size", type=int, default=256, metavar="N", help="default 256")
    add("-j", "--workers", type=int, default=4, metavar="N", help="processes that read pictures (4)")
    add("--device", default="auto", help="auto (default: an accelerator where there is one), cpu, cuda, ...")
    add("--amp", action="store_true", help="mixed precision")
    add("--amp-dtype", choices=("float16", "bfloat16"), help="default float16, bfloat16 on a CPU")
    add("--model-dtype", choices=("float32", "bfloat16", "float16"), help="weights and input (float32)")
    add("--channels-last", action="store_true", help="channels-last memory layout")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile (inductor)")
    add("--no-prefetcher", action="store_true", help="normalise where the pictures are read")
    add("--pin-mem", action="store_true", help="page-locked memory")
    add("--retry", action="store_true", help="halve the batch when memory runs out")
    add("--topk", type=int, nargs="+", default=[1, 5], metavar="K", help="accuracies to count (1 5) (ours)")
    add("--log-freq", type=int, default=10, metavar="N", help="batches between log lines (10)")
    add("--results-file", type=Path, metavar="FILE", help="a row is added as each model ends")
    add("--results-format", choices=("csv", "json"), default="csv", help="default csv")
    add("--resume", action="store_true", help="leave out models that --results-file already has (ours)")


GROUPS = (("data", add_data), ("model", add_model), ("input", add_input), ("run", add_run))


def add_groups(parser: argparse.ArgumentParser) -> None:
    for title, fill in GROUPS:
        fill(parser.add_argument_group(title))


def check(args: argparse.Namespace) -> None:
    """Raises: ValueError for a number outside its range, or flags that do not go together."""
    if args.data and args.data_dir and args.data != args.data_dir:
        raise ValueError(f"DIR and --data-dir must agree, got {args.data!r} and {args.data_dir!r}")
    at_least = {
        "num_samples": 1,
        "num_classes": 1,
        "img_size": 1,
        "in_chans": 1,
        "batch_size": 1,
        "workers": 0,
    }
    at_least |= {"log_freq": 1, "crop_border_pixels": 0}
    for name, least in at_least.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    for name, values in (("--topk", args.topk), ("--input-size", args.input_size or [1])):
        if min(values) < 1:
            raise ValueError(f"{name} must be at least 1, got {min(values)}")
    if args.crop_pct is not None and not args.crop_pct > 0:
        raise ValueError(f"--crop-pct must be above 0, got {args.crop_pct}")
    if args.use_ema and args.checkpoint is None and not Path(args.model).is_file():
        raise ValueError("--use-ema needs a --checkpoint that has a moving average")
    if args.resume and args.results_file is None:
        raise ValueError("--resume needs --results-file, which says what is done")
