"""Teachers: a pipeline from the Hub or a folder, or a bare model's folder with its scheduler's settings."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..extras import need

PARTS = ("transformer", "unet")
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
PLAIN = {"num_train_timesteps": 1000, "beta_schedule": "linear", "clip_sample": False}  # DiT's
SCHEDULER = "scheduler_config.json"
SHIPPED = Path(__file__).parents[1] / "weights"  # teachers that come with linzoo, by a bare name
LOADING = (OSError, ValueError, KeyError, AttributeError, RuntimeError)  # what diffusers raises


@dataclass(frozen=True, slots=True)
class VaeOnly:
    """Stands for a pipeline where there is a VAE and nothing else."""

    vae: nn.Module


@dataclass(slots=True)
class Teacher:
    """What a student is made from.

    Args:
        model: the denoiser, in evaluation mode.
        scheduler: of the training: DDPMScheduler or FlowMatchEulerDiscreteScheduler.
        pipe: text encoders and VAE around it, or a VAE alone; None for a bare model.
    """

    model: nn.Module
    scheduler: Any
    pipe: Any = None


def load_teacher(args: argparse.Namespace, half: bool) -> Teacher:
    """``--teacher``, or ``--model`` with random weights.

    Args:
        half: load the denoiser in the type of ``--mixed-precision``.
    Raises: ValueError, OSError naming the flag.
    """
    need("diffusers", "diffusion")
    dtype = HALF.get(args.mixed_precision, torch.float32) if half else torch.float32
    if args.model:
        settings = PLAIN | {"prediction_type": args.prediction}
        teacher = Teacher(new_model(args), training_scheduler(settings))
    else:
        teacher = read_teacher(args, dtype)
    if args.vae and teacher.pipe is not None:
        raise ValueError(f"--vae cannot be used with --teacher {args.teacher}, which has its own")
    if args.vae:
        teacher.pipe = VaeOnly(read_vae(args.vae))
    return teacher


def read_teacher(args: argparse.Namespace, dtype: torch.dtype) -> Teacher:
    import diffusers

    folder = Path(args.teacher).expanduser()
    shipped = SHIPPED / args.teacher.removeprefix("tools/weights/")  # as it is called in a clone
    if not folder.is_dir() and (shipped / "config.json").is_file():
        folder = shipped
    if not folder.is_dir() and (folder.is_absolute() or args.teacher.startswith(".") or folder.exists()):
        raise FileNotFoundError(f"--teacher must be a hub id or a folder, {folder} is no folder")
    try:
        if (folder / "config.json").is_file():
            model = read_model(folder, dtype)
            return Teacher(model.eval(), training_scheduler(read_settings(folder)))
        encoders = HALF.get(args.mixed_precision, torch.float32)
        types = {"default": encoders, "vae": torch.float32} | dict.fromkeys(PARTS, dtype)
        pipe = from_pretrained(diffusers.DiffusionPipeline, args.teacher, types)
    except LOADING as error:
        raise ValueError(f"--teacher {args.teacher} cannot be loaded: {first_line(error)}") from error
    model = next((getattr(pipe, part) for part in PARTS if getattr(pipe, part, None) is not None), None)
    if model is None:
        raise ValueError(f"--teacher must have a unet or a transformer, {args.teacher} has none")
    return Teacher(model.eval(), training_scheduler(dict(pipe.scheduler.config)), pipe)


def read_vae(name: str) -> nn.Module:
    """Raises: ValueError."""
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(name)
    except LOADING as error:
        raise ValueError(f"--vae {name} cannot be loaded: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def new_model(args: argparse.Namespace) -> nn.Module:
    """Raises: ValueError for a class or config that diffusers does not know."""
    import diffusers

    from ...diffusion.distill.denoisers import DENOISERS

    if args.model not in DENOISERS:
        raise ValueError(f"--model must be one of {', '.join(DENOISERS)}, got {args.model}")
    cls = getattr(diffusers, args.model)
    known = set(cls.__init__.__wrapped__.__code__.co_varnames)
    unknown = [word for word in args.model_kwargs if word not in known]
    if unknown:
        raise ValueError(f"--model-kwargs: {args.model} has no {', '.join(unknown)}")
    try:
        return cls(**args.model_kwargs)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"--model-kwargs: {error}") from error


def read_model(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The model of a folder whose config.json names its class."""
    import diffusers

    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    cls = getattr(diffusers, str(name), None)
    if cls is None or not issubclass(cls, nn.Module):
        raise ValueError(f"config.json must name a model of diffusers as _class_name, got {name}")
    return from_pretrained(cls, folder, dtype)


def from_pretrained(cls: type, name: str | Path, dtype: Any) -> Any:
    with warnings.catch_warnings():  # newer diffusers call it dtype, older ones do not know that
        warnings.simplefilter("ignore", FutureWarning)
        return cls.from_pretrained(name, torch_dtype=dtype)


def read_settings(folder: Path) -> dict[str, Any]:
    """The scheduler's settings beside a model; DiT's where there are none."""
    for place in (folder, folder / "scheduler", folder.parent / "scheduler"):
        if (place / SCHEDULER).is_file():
            return json.loads((place / SCHEDULER).read_text(encoding="utf-8"))
    return PLAIN


def training_scheduler(settings: dict[str, Any]) -> Any:
    """The scheduler that adds noise as a pipeline's own scheduler removes it."""
    import diffusers

    flows = "FlowMatch" in settings.get("_class_name", "")
    cls = diffusers.FlowMatchEulerDiscreteScheduler if flows else diffusers.DDPMScheduler
    known = {k: v for k, v in settings.items() if k in cls._get_init_keys(cls)}
    return cls(**known)
