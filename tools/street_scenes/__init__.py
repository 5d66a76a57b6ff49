"""``python -m linzoo.tools.street_scenes``: LiDAR detectors on scenes that are drawn.

``full`` trains detectors with several seeds, judges them on scenes that none has seen, and replaces their
rows in ``tools/results/street-scenes.jsonl`` and their pictures. ``start`` trains the committed weights that
``linzoo demo`` begins with. Both go on where a killed run stood. Runs named by ``--seed`` can be made at the
same time; a last ``full --detector NAME`` gathers them. ``headings`` measures what the points alone tell of
headings, without a detector, and replaces ``tools/results/street-scenes-headings.jsonl``.
"""

import argparse
import shutil
from pathlib import Path

TASKS = {
    "full": "train and judge every detector with every seed, replace its recorded rows and picture",
    "headings": "read headings from the points of road users whose place is known, replace those rows",
    "start": "train what the demo begins with, replace tools/weights/lion_retnet_small.safetensors",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .detectors import RECIPES, SEEDS

    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser.add_argument("task", choices=TASKS, help=tasks)
    parser.add_argument("--detector", choices=RECIPES, help="of full: only this one")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="of full: only this one; nothing is replaced")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/street-scenes"), metavar="DIR",
        help="folder of checkpoints (runs/street-scenes)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="default auto")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that draw (0: none)")
    parser.add_argument(
        "--restart", action="store_true", help="forget what earlier runs of these have reached"
    )


def run(args: argparse.Namespace) -> int:
    for flag in ("detector", "seed"):
        if args.task != "full" and getattr(args, flag) is not None:
            raise ValueError(f"--{flag} is a flag of full, {args.task} takes none")
    if args.task == "headings":
        from .headings import record_headings

        record_headings()
        return 0
    from ..extras import need

    for module in ("accelerate", "matplotlib", "scipy"):
        need(module, "pointcloud")  # now, not after minutes of work
    if args.restart:
        runs = f"{args.detector or '*'}-{'*' if args.seed is None else args.seed}"
        for folder in (args.output / args.task).glob(runs):
            shutil.rmtree(folder)
    if args.task == "full":
        from .record import record

        record(args.output, args.device, args.workers, only=(args.detector, args.seed))
    else:
        from .detectors import make_start

        make_start(args.output, args.device, args.workers)
    return 0
