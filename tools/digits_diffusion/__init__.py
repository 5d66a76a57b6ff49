"""``python -m linzoo.tools.digits_diffusion``: a diffusion model of handwritten digits, made linear.

``teacher`` and ``classifier`` make the committed weights, ``full`` trains every student and replaces the rows
of ``tools/results/digits-diffusion.jsonl``. The teacher and the full run go on where a killed run stood; the
classifier takes seconds.
"""

import argparse
import shutil
from pathlib import Path

TASKS = {
    "teacher": "train the softmax DiT, replace tools/weights/digits_dit",
    "classifier": "train what the Fréchet distance sees with, replace tools/weights/digits_features.*",
    "full": "train, sample and judge all students, replace the recorded rows and pictures",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser.add_argument("task", choices=TASKS, help=tasks)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/digits-diffusion"), metavar="DIR",
        help="folder of checkpoints (runs/digits-diffusion)",
    )  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run has reached")


def run(args: argparse.Namespace) -> int:
    from ..extras import need

    for module, extra in (("sklearn", "data"), ("torchmetrics", "data"), ("diffusers", "diffusion")):
        need(module, extra)  # now, not after minutes of work
    if args.restart:
        shutil.rmtree(args.output / args.task, ignore_errors=True)
    if args.task == "full":
        from .record import record

        record(args.output)
    elif args.task == "teacher":
        from .teacher import train_teacher

        train_teacher(args.output)
    else:
        from .features import WEIGHTS, FeatureSettings, save_features, train_features

        save_features(train_features(FeatureSettings())[0], WEIGHTS)
    return 0
