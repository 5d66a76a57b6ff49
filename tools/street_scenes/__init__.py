"""``python -m linzoo.tools.street_scenes``: LiDAR detectors on scenes that are drawn.

``full`` trains three detectors with several seeds, judges them on scenes that none has seen, and replaces the
rows of ``tools/results/street-scenes.jsonl`` and its pictures. ``start`` trains the committed weights that
``linzoo demo`` begins with. Both go on where a killed run stood. Runs named by ``--detector`` and ``--seed``
can be made at the same time; a last ``full`` gathers them. ``headings`` measures what the points alone tell
of headings, without a detector, and replaces ``tools/results/street-scenes-headings.jsonl``.
"""

import argparse
import shutil
from pathlib import Path

TASKS = {
    "full": "train and judge every detector with every seed, replace the recorded rows and pictures",
    "headings": "read headings from the points of road users whose place is known, replace those rows",
    "start": "train what the demo begins with, replace tools/weights/lion_retnet_small.safetensors",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .detectors import RECIPES, SEEDS

    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser.add_argument("task", choices=TASKS, help=tasks)
    parser.add_argument("--detector", choices=RECIPES, help="only this one; nothing is replaced")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only this one; nothing is replaced")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/street-scenes"), metavar="DIR",
        help="folder of checkpoints (runs/street-scenes)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="default auto")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that draw (0: none)")
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run has reached")


def run(args: argparse.Namespace) -> int:
    if args.task == "headings":
        from .headings import record_headings

        record_headings()
        return 0
    from ..extras import need

    for module in ("accelerate", "matplotlib", "scipy"):
        need(module, "pointcloud")  # now, not after minutes of work
    if args.restart:
        shutil.rmtree(args.output / args.task, ignore_errors=True)
    if args.task == "full":
        from .record import record

        record(args.output, args.device, args.workers, only=(args.detector, args.seed))
    else:
        from .detectors import make_start

        make_start(args.output, args.device, args.workers)
    return 0
