"""mmengine's runner as the commands start it: quiet console, this machine's devices, writable work dir."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")

# a line for every parameter, or the whole config: they go to the log file only
LONG = ("paramwise_options -- ", "Config:\n", "Hooks will be executed in the following order", "\n----")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work-dir", metavar="DIR", help="logs and checkpoints (default work_dirs/CONFIG)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="several GPUs: who starts us")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


class QuietConsole(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(LONG)


def make_runner(cfg: Config) -> Runner:
    """The runner of a checked config; a ``runner_type`` of the config is built as mmdetection builds it.

    Raises: ValueError with mmengine's reason.
    """
    from mmengine.runner import Runner

    class QuietRunner(Runner):
        def build_logger(self, *args, **kwargs):
            logger = super().build_logger(*args, **kwargs)
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(QuietConsole())
            return logger

    try:
        if "runner_type" in cfg:
            from mmdet.registry import RUNNERS

            return RUNNERS.build(cfg)
        return QuietRunner.from_cfg(cfg)
    except (KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"the runner of the config cannot be built: {error}") from error


def set_launch(cfg: Config, args: argparse.Namespace, note=print) -> None:
    """The launcher and what a machine without a GPU cannot do, into ``cfg``.

    Raises: ValueError for a launcher without a GPU, or one that has not started us.
    """
    import torch

    started = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_LOCAL_RANK"}
    cfg.launcher = args.launcher
    if args.launcher != "none":
        if not torch.cuda.is_available():
            raise ValueError(
                f"--launcher must be none on a machine without a GPU (mmengine asks for one), "
                f"got {args.launcher}"
            )
        variable = started[args.launcher]
        if variable not in os.environ:
            raise ValueError(
                f"--launcher {args.launcher}: {variable} is not set; start several processes, as by "
                f"`torchrun --nproc-per-node=8 -m linzoo ... --launcher pytorch`"
            )
        # alone it would make a later run in this process, by accelerate, look for other processes
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        wrapper["type"] = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fp16"):
            wrapper.pop(key, None)
        note("no GPU here: the config's mixed precision (AmpOptimWrapper) is off", file=sys.stderr)


def set_work_dir(cfg: Config, given: str | None, name: str) -> Path:
    """``--work-dir``, else the config's, else work_dirs/NAME, as in mmdetection."""
    cfg.work_dir = given or cfg.get("work_dir") or str(Path("work_dirs") / name)
    return Path(cfg.work_dir)


@contextmanager
def faults_named(ending: Callable[[], str] = str) -> Iterator[None]:
    """Inside, pictures that cannot be decoded and files that cannot be read or written raise one line.

    Args:
        ending: gives what the line ends with.
    Raises: OSError.
    """
    try:
        yield
    except AssertionError as error:  # mmcv's, for a truncated picture
        pictures = re.findall("failed to load image: (.+)", str(error))
        if not pictures:
            raise
        # the last: a reading process sends its traceback too, with the line of code
        raise OSError(f"cannot read {pictures[-1]}: damaged or truncated{ending()}") from error
    except OSError as error:  # from a reading process with its traceback, whose last line says what
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(f"{lines[-1]}{ending()}") from error
