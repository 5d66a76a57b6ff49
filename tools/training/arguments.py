"""The arguments of ``linzoo train``: the names, meanings and defaults of timm's train.py, by group.

What timm does not have is marked "(ours)". A recipe's keys are the names here with underscores.
"""

import argparse

from .argument_kinds import Group, KeyValues, switch
from .recipe_arguments import (
    add_augmentation,
    add_ema,
    add_objective,
    add_optimizer,
    add_schedule,
    add_schedule_cycles,
)


def add_data(group: Group) -> None:
    add = group.add_argument
    add("data", nargs="?", metavar="DIR", help="the data set's folder or tar file; the same as --data-dir")
    add("--data-dir", metavar="DIR", help="folder with a folder a split, and in it a folder a class")
    add("--dataset", default="", metavar="NAME", help="'digits' (ours, built in), torch/, hfds/, wds/, ...")
    add("--train-split", default="train", metavar="NAME", help="default train")
    add("--val-split", default="validation", metavar="NAME", help="default validation; '' to skip validation")
    add(
        "--train-num-samples",
        type=int,
        metavar="N",
        help="samples a training epoch of a stream (wds/, hfids/)",
    )
    add("--val-num-samples", type=int, metavar="N", help="the same for validation")
    switch(group, "dataset-download", "fetch the data set, where its source can (network)")
    add(
        "--class-map",
        default="",
        metavar="FILE",
        help="class names, one a line, in the order of their numbers",
    )
    add(
        "--input-img-mode",
        metavar="MODE",
        help="Pillow's mode of the pictures (default: RGB, or L for 1 channel)",
    )
    add("--input-key", metavar="KEY", help="the picture's key in a sample (hfds/, wds/)")
    add("--target-key", metavar="KEY", help="the class's key in a sample")


def add_model(group: Group) -> None:
    add = group.add_argument
    add("--model", default="", metavar="NAME", help="any model of timm or linzoo; see `linzoo list`")
    switch(group, "pretrained", "start from published weights (network)")
    add(
        "--pretrained-path",
        metavar="FILE",
        help="these weights in place of the published ones; another head is new",
    )
    add(
        "--initial-checkpoint",
        default="",
        metavar="FILE",
        help="start from these weights; another head is new",
    )
    add("--resume", default="", metavar="RUN", help="go on: a checkpoint, a run's folder, or 'auto' (ours)")
    switch(group, "no-resume-opt", "take only the weights from the resumed checkpoint")
    add("--num-classes", type=int, metavar="N", help="classes (default: what the data set says)")
    add("--gp", metavar="POOL", help="global pooling: avg, max, avgmax, ...")
    add("--img-size", type=int, metavar="PX", help="side of the input (default: the model's own)")
    add("--in-chans", type=int, metavar="N", help="channels of the input (default: the model's own)")
    add("--input-size", type=int, nargs=3, metavar=("C", "H", "W"), help="the input's full size")
    add("--crop-pct", type=float, metavar="X", help="part of the side that validation keeps")
    add("--mean", type=float, nargs="+", metavar="X", help="mean of each channel, from 0 to 1")
    add("--std", type=float, nargs="+", metavar="X", help="deviation of each channel")
    add("--interpolation", default="", metavar="NAME", help="resizing in validation")
    add("-b", "--batch-size", type=int, default=128, metavar="N", help="pictures a process and step (128)")
    add("-vb", "--validation-batch-size", type=int, metavar="N", help="default: the batch size")


def add_model_form(group: Group) -> None:
    add = group.add_argument
    switch(group, "channels-last", "channels-last memory layout")
    add("--grad-accum-steps", type=int, default=1, metavar="N", help="steps whose gradients are added (1)")
    switch(group, "grad-checkpointing", "recompute activations in the backward pass")
    switch(group, "fast-norm", "norm layers in the autocast type")
    add(
        "--model-kwargs",
        nargs="*",
        default={},
        action=KeyValues,
        metavar="K=V",
        help="arguments of the model",
    )
    add("--head-init-scale", type=float, metavar="X", help="factor on the head's initial weight")
    add("--head-init-bias", type=float, metavar="X", help="the head's initial bias")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile (inductor)")
    add("--torchcompile-mode", metavar="MODE", help="torch.compile's mode")
    add("--drop", type=float, default=0.0, metavar="P", help="dropout (0)")
    add("--drop-path", type=float, metavar="P", help="drop path (default: the model's own)")
    add("--drop-block", type=float, metavar="P", help="drop block")
    add("--bn-momentum", type=float, metavar="X", help="BatchNorm's momentum")
    add("--bn-eps", type=float, metavar="X", help="BatchNorm's epsilon")
    switch(group, "sync-bn", "BatchNorm over all processes")
    add(
        "--dist-bn", default="reduce", choices=("reduce", "broadcast", ""),
        help="BatchNorm's statistics after an epoch: mean over processes, the first's, or as they are",
    )  # fmt: skip
    switch(group, "split-bn", "BatchNorm of its own for every augmentation split")


def add_device(group: Group) -> None:
    add = group.add_argument
    add("--device", default="auto", help="auto (default: an accelerator where there is one), cpu, cuda, ...")
    switch(group, "amp", "mixed precision")
    add("--amp-dtype", default="float16", choices=("float16", "bfloat16"), help="default float16")
    add(
        "--model-dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type of weights and input (float32)",
    )
    switch(group, "no-ddp-bb", "do not broadcast buffers in every step of several processes")
    switch(group, "synchronize-step", "wait for the device after every step")


def add_run(group: Group) -> None:
    add = group.add_argument
    add("--seed", type=int, default=42, metavar="N", help="default 42")
    add("--log-interval", type=int, default=50, metavar="N", help="steps between log lines (50)")
    add(
        "--recovery-interval",
        type=int,
        default=0,
        metavar="N",
        help="also save every N steps (0: after epochs)",
    )
    add("--checkpoint-hist", type=int, default=10, metavar="N", help="numbered checkpoints to keep (10)")
    add("-j", "--workers", type=int, default=4, metavar="N", help="processes that read pictures (4)")
    switch(group, "pin-mem", "page-locked memory")
    switch(group, "no-prefetcher", "normalise, mix and erase on the CPU, in float32")
    add("--output", default="", metavar="DIR", help="folder of the runs (runs/train)")
    add(
        "--experiment",
        default="",
        metavar="NAME",
        help="this run's folder in it (default: time, model, size)",
    )
    add(
        "--eval-metric",
        default="top1",
        choices=("top1", "top5", "loss"),
        help="what ranks checkpoints (top1)",
    )
    add("--report-to", default="none", choices=("none", "tensorboard"), help="default none")
    add(
        "--log-tensorboard",
        action="store_const",
        const="tensorboard",
        dest="report_to",
        help="the same (ours)",
    )


GROUPS = (
    ("data", add_data),
    ("model", add_model),
    ("the model's form", add_model_form),
    ("device and processes", add_device),
    ("optimizer", add_optimizer),
    ("learning rate", add_schedule),
    ("noise and cycles of the learning rate", add_schedule_cycles),
    ("augmentation", add_augmentation),
    ("loss", add_objective),
    ("moving average", add_ema),
    ("run", add_run),
)


def add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", metavar="RECIPE", help="a recipe: a packaged name, .toml, or timm's .yaml"
    )
    for title, fill in GROUPS:
        fill(parser.add_argument_group(title))
