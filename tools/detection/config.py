"""A config of mmdetection: a file or one of the packaged names, with the command line's options merged in."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import need

if TYPE_CHECKING:
    from mmengine.config import Config

# read by mmdetection's tools, mmengine's Config and the runner's hooks, though no argument of Runner
OTHER_KEYS = (
    "auto_scale_lr", "base_batch_size", "compile", "custom_imports", "find_unused_parameters",
    "model_wrapper_cfg", "runner_type", "sync_bn", "tta_model", "tta_pipeline",
)  # fmt: skip


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="config file of mmdetection, or a packaged name")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings of the config"
    )


def packaged() -> dict[str, Path]:
    """Name to file of the configs that come with linzoo."""
    folder = Path(str(resources.files("linzoo.configs"))) / "detection"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def find_config(text: str) -> Path:
    """The file that CONFIG means. Raises: FileNotFoundError with the nearest packaged names."""
    path = Path(text)
    if path.is_file():
        return path
    known = packaged()
    name = text.removesuffix(".py")
    if name in known:
        return known[name]
    if path.is_dir():
        raise FileNotFoundError(f"CONFIG must be a file, {text} is a folder")
    near = get_close_matches(name, known)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise FileNotFoundError(f"CONFIG must be a file or the name of a packaged config, got {text!r}{hint}")


def read_config(text: str, options: Sequence[str] = ()) -> Config:
    """The config with ``options``; mmdetection is imported, with what linzoo adds to it.

    Args:
        text: a path or a packaged name.
        options: "key=value", nested keys with dots, as in mmdetection's tools.
    Raises: ImportError naming the pip command; FileNotFoundError; ValueError for a file that is no config and
        for options that it has no use for.
    """
    need("mmengine", "detection")
    need("mmcv", "detection")
    need("mmdet", "detection")
    path = find_config(text)
    need("linzoo.vision.detection", "detection")  # before anything of mmdet: mmcv's operators
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(str(path))
    except (ImportError, OSError):
        raise
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ValueError(f"CONFIG {path} cannot be read: {type(error).__name__}: {error}") from error
    lacking = [key for key in ("model", "test_dataloader") if key not in cfg]
    if lacking:
        raise ValueError(f"CONFIG {path} must have {' and '.join(lacking)}: is it a config of a detector?")
    merge_options(cfg, options)
    return cfg


def merge_options(cfg: Config, options: Sequence[str]) -> None:
    """Raises ValueError, with ``cfg`` unchanged, for an option that is malformed or names no setting."""
    from mmengine.config import DictAction
    from mmengine.runner import Runner

    if not options:
        return
    bad = [option for option in options if not option.partition("=")[0] or "=" not in option]
    if bad:
        raise ValueError(f"--cfg-options must be KEY=VALUE, got {bad[0]!r}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    merged = parser.parse_args(["--cfg-options", *options]).cfg_options
    known = {*cfg, *inspect.signature(Runner).parameters, *OTHER_KEYS} - {"self", "cfg"}
    for key in merged:
        top = key.partition(".")[0]
        if top not in known:
            near = get_close_matches(top, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--cfg-options: the config has no {top!r}, so {key} would do nothing{hint}")
    try:
        cfg.merge_from_dict(merged)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--cfg-options cannot be merged into the config: {error}") from error
