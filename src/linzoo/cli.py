"""The ``linzoo`` command: one subcommand a module of ``linzoo.tools``, imported only when it is called.

A command's module has ``add_arguments(parser)`` and ``run(args) -> int`` (``defaults_from``, if it takes
recipes; ``module_for``, if another module serves some command lines) and imports torch inside ``run``, so
``linzoo --help`` and ``linzoo COMMAND --help`` stay light.
Exit status: 0 done, 1 the command found a fault, 2 the request could not be served (one line on stderr says
why), 130 interrupted.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from . import __version__

# command: (module of linzoo.tools, line in --help)
COMMANDS = {
    "demo": ("demo", "train small pyramids, time large pictures, draw attention: runs/demo/index.html"),
    "list": ("list_models", "list the models, by pattern or by family"),
    "info": ("info", "one model: card, parameters, multiply-adds, where weights come from"),
    "train": ("train", "train or fine-tune a model, with timm's flags or a recipe"),
    "validate": ("validate", "accuracy of one model or many on a data set, with timm's flags"),
    "predict": ("predict", "classify pictures with a model and a weight file"),
    "convert": ("convert", "turn an authors' weight file into ours, or back"),
    "train-detection": ("train_detection", "train a detector with mmdetection, from a config"),
    "test-detection": ("test_detection", "evaluate a detector with mmdetection"),
    "predict-detection": ("predict_detection", "draw what a detector finds in pictures; boxes as json"),
    "detect": ("detect", "find objects in LiDAR frames: boxes as json, pictures from above"),
    "prepare-lidar": ("prepare_lidar", "check a LiDAR data set, cache its index and the objects to paste"),
    "distill": ("distill", "train a linearized diffusion model against its original, from a recipe"),
    "generate": ("generate", "draw a picture with a linearized pipeline, up to 16K, within a memory budget"),
    "bench": ("bench", "time the kernels or the models on this machine"),
    "kernel-report": ("kernel_report", "compile the Triton kernels for GPUs and report what they use"),
}


def build_parser(command: str | None = None, words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; only ``command``'s own arguments are filled in, so that no other command is imported.

    Args:
        words: the command line; a command that has ``defaults_from(words, parser) -> dict`` reads a recipe
            there, whose values become defaults: flags win wherever they stand.
    """
    parser = argparse.ArgumentParser(
        prog="linzoo",
        description="Vision, diffusion and point-cloud backbones whose token mixing costs O(N).",
        epilog="`linzoo COMMAND --help` shows a command's arguments.",
    )
    parser.add_argument("--version", action="version", version=f"linzoo {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name == command:
            tool = importlib.import_module(f"linzoo.tools.{module}")
            if hasattr(tool, "module_for"):
                tool = tool.module_for(words)
            tool.add_arguments(sub)
            sub.set_defaults(run=tool.run)
            if hasattr(tool, "defaults_from"):
                sub.set_defaults(**tool.defaults_from(words, sub))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` without the program's name (None: ``sys.argv``). Returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in argv if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"linzoo: no command {command!r}; {hint}Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    debug = "--debug" in argv
    try:
        args = build_parser(command, argv).parse_args(argv)
        return args.run(args)
    except KeyboardInterrupt:
        print(f"linzoo {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `linzoo list | head`: the reader has left; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug or not is_request_error(error):
            raise
        print(f"linzoo {command}: {one_line(error)}", file=sys.stderr)
        return 2


def is_request_error(error: Exception) -> bool:
    """True when the message alone tells the user what to change; anything else is our fault: traceback."""
    backend_error = getattr(sys.modules.get("linzoo.kernels.errors"), "BackendError", ())
    return isinstance(error, (ValueError, OSError, ImportError, backend_error))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
