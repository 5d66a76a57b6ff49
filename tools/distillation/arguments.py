"""The arguments of ``linzoo distill``, by group. A recipe's keys are the names here with underscores."""

import argparse

from ..runs import arguments as runs
from ..runs.arguments import add_all, key_values
from ..training.argument_kinds import Group, switch

OBJECTIVES = ("linfusion", "clear", "lit")
METHODS = (*OBJECTIVES, "none")
DATASETS = ("digits", "classes", "captions")
RESIZES = ("squash", "crop", "halve-crop")
DTYPES = ("float32", "bfloat16", "float16")
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
)  # fmt: skip


def add_models(group: Group) -> None:
    add = group.add_argument
    add("--teacher", metavar="NAME", help="hub id, a pipeline's folder, or a model's with its scheduler")
    add("--vae", metavar="NAME", help="hub id or folder of a VAE, for a teacher or --model without one")
    add("--method", choices=METHODS, help="what replaces the teacher's attention; none: nothing")
    key_values(group, "method-kwargs", "the method's options: radius=8, heads=2, ...")
    add("--init", choices=("inherit", "random"), help="start of the swapped modules, where the method has it")
    add("--weights", metavar="NAME", help="start of the swapped modules: official, hub id, folder or file")
    switch(group, "from-scratch", "random weights everywhere and no teacher: plain training")
    add("--model", metavar="CLASS", help="diffusers class, in place of a teacher, with --from-scratch")
    key_values(group, "model-kwargs", "its config")
    add("--prediction", default="epsilon", choices=("epsilon", "v_prediction"), help="of --model (epsilon)")


def add_objective(group: Group) -> None:
    add = group.add_argument
    add("--objective", choices=OBJECTIVES, help="default: the method's")
    add("--train", choices=("swapped", "all"), help="parameters that train (default: the objective's)")
    add("--output-weight", type=float, metavar="X", help="of the difference to the teacher's prediction")
    add("--feature-weight", type=float, metavar="X", help="of the difference between attention outputs")
    add("--variance-weight", type=float, metavar="X", help="of the difference between variances")
    add("--guidance", type=float, default=3.5, metavar="X", help="embedded guidance of FLUX (3.5)")
    add(
        "--timesteps", default="uniform", choices=("uniform", "logit-normal"),
        help="how noise levels are drawn (uniform)",
    )  # fmt: skip
    add("--label-dropout", type=float, default=0.1, metavar="P", help="classes left out (0.1)")


def add_data(group: Group) -> None:
    add = group.add_argument
    add("--dataset", choices=DATASETS, help="digits (built in), classes (a folder a class), captions")
    add("--data-dir", metavar="DIR", help="folder of pictures; captions in metadata.jsonl or NAME.txt")
    add("--resolution", type=int, metavar="PX", help="side of the pictures (default: the model's own)")
    add("--resize", default="crop", choices=RESIZES, help="to a square: bicubic; or short side, then centre")
    switch(group, "hflip", "mirror half of the pictures")
    add("--cache", default="runs/distill/cache", metavar="DIR", help="of latents and embeddings")
    add("--cache-dtype", default="float32", choices=DTYPES, help="type of what is cached (float32)")
    add("--shard-size", type=int, default=256, metavar="N", help="pictures a file of the cache (256)")
    add("--encode-batch-size", type=int, default=8, metavar="N", help="pictures encoded at a time (8)")
    add("-b", "--batch-size", type=int, default=128, metavar="N", help="pictures a process and step (128)")
    add("--grad-accum-steps", type=int, default=1, metavar="N", help="steps whose gradients are added (1)")


def add_optimizer(group: Group) -> None:
    add = group.add_argument
    add("--opt", default="adamw", choices=("adamw", "prodigy"), help="default adamw")
    add("--lr", type=float, default=1e-4, metavar="X", help="learning rate (1e-4); prodigy's is 1")
    add("--weight-decay", type=float, default=0.0, metavar="X", help="weight decay (0)")
    key_values(group, "opt-kwargs", "the optimizer's arguments: betas=(0.9,0.99), ...")
    add("--sched", default="constant", choices=SCHEDULES, help="diffusers' schedules (constant)")
    add("--warmup-steps", type=int, default=0, metavar="N", help="updates of rising learning rate (0)")
    add("--clip-grad", type=float, metavar="X", help="largest norm of the gradient (default: none)")
    add("--ema-decay", type=float, metavar="X", help="keep a moving average of the weights with this decay")
    add("--max-steps", type=int, metavar="N", help="optimizer updates in all")


def add_device(group: Group) -> None:
    runs.add_device(group)
    switch(group, "grad-checkpointing", "recompute activations in the backward pass")


def add_run(group: Group) -> None:
    runs.add_run(group, output="runs/distill", save_interval=1000)
    add = group.add_argument
    add("--sample-interval", type=int, default=0, metavar="N", help="updates between samples (0: at the end)")
    add("--samples", type=int, default=16, metavar="N", help="pictures of a sample (16; 0: none)")
    add("--sample-steps", type=int, default=20, metavar="N", help="denoising steps of a sample (20)")
    add("--sample-guidance", type=float, default=1.0, metavar="X", help="classifier-free guidance (1)")


GROUPS = (
    ("teacher and student", add_models),
    ("objective", add_objective),
    ("data", add_data),
    ("optimizer", add_optimizer),
    ("device", add_device),
    ("run", add_run),
)


def add_groups(parser: argparse.ArgumentParser) -> None:
    add_all(parser, GROUPS)
