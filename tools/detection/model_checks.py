"""The model that a config describes, and whether a checkpoint is one of it; nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor, nn


def meta_detector(cfg: Config) -> nn.Module:
    """The detector without memory. Raises: ValueError with the reason why the config cannot be built."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope, init_default_scope

    if DefaultScope.get_current_instance() is None:
        init_default_scope(cfg.get("default_scope", "mmdet"))
    try:
        with torch.device("meta"):
            return MODELS.build(cfg.model)
    except (ImportError, OSError):
        raise
    except Exception as error:  # registries and constructors of mmdetection raise whatever they like
        raise ValueError(f"model of the config cannot be built: {error}") from error


def read_checkpoint(path: str | Path, flag: str) -> dict:
    """What mmengine or mmcv saved: ``state_dict`` and more. Executes no code from the file.

    Raises: FileNotFoundError; ValueError for a damaged file, one that is no checkpoint, or one with objects
        beside tensors that mmengine's own checkpoints do not have.
    """
    import pickle

    import torch

    if not Path(path).is_file():
        what = "a folder" if Path(path).is_dir() else "not there"
        raise FileNotFoundError(f"{flag} must be a checkpoint file, {path} is {what}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to load it all the same
        raise ValueError(
            f"{flag}: {path} is damaged or no checkpoint, or holds objects that could run code when loaded"
        ) from None
    except Exception as error:  # zip and torch have their own classes for a damaged file
        raise ValueError(f"{flag}: {path} cannot be read, truncated? {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{flag}: {path} must hold a checkpoint, got {type(content).__name__}")
    return dict(content)


def weights_of(checkpoint: Mapping, model: nn.Module, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names of ``model``; authors' backbones are renamed.

    Raises: ValueError when there are none.
    """
    from torch import Tensor

    from ...vision.detection import LinzooBackbone
    from ...vision.detection.backbone_weights import rename_in_place

    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{source} must hold a state_dict of tensors")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for name, module in model.named_modules():
        if isinstance(module, LinzooBackbone):
            rename_in_place(module, state, f"{name}." if name else "")
    return state


def check_fit(state: Mapping[str, Tensor], model: nn.Module, source: str, only: str = "") -> None:
    """Raises ValueError, listing names and shapes, unless ``state`` fills ``model``.

    Args:
        source: of the weights, for the error.
        only: what begins so must fit; heads of other classes may differ when a detector is fine-tuned.
    """
    from ...vision.detection.backbone_weights import differences

    wanted = {k: v for k, v in model.state_dict().items() if k.startswith(only)}
    counters = ("num_batches_tracked",)  # absent in files of old versions of torch, and not needed
    wanted = {k: v for k, v in wanted.items() if k in state or not k.endswith(counters)}
    faults = differences({k: v for k, v in state.items() if k.startswith(only)}, wanted)
    if faults:
        raise ValueError(f"{source} does not fit the model of the config: {faults}")


def check_backbones(model: nn.Module) -> None:
    """The weights that backbones of ours will read, fetched where they are published, and tried.

    Raises: OSError, ValueError, naming the setting, for weights that cannot be had or do not fit.
    """
    from ...vision.detection import LinzooBackbone
    from ...vision.detection.backbone_weights import fitting, source_of

    for name, module in model.named_modules():
        if not isinstance(module, LinzooBackbone):
            continue
        source = source_of(module.pretrained, module.init_cfg)
        setting = f"model.{name}.{'pretrained' if module.pretrained else 'init_cfg'}"
        if source is None:
            continue
        try:
            fitting(module, source)
        except OSError as error:
            if source is True:
                raise OSError(
                    f"{setting}: the published weights of {module.model_name} cannot be fetched; a file or "
                    f"False can stand there ({error})"
                ) from error
            missing = isinstance(error, FileNotFoundError)
            raise (FileNotFoundError if missing else OSError)(f"{setting}: {error}") from error


def check_sync_bn(model: nn.Module) -> None:
    """Raises ValueError for norms of timm that hold an activation: conversion to SyncBatchNorm loses it."""
    from timm.layers import BatchNormAct2d

    lost = [name for name, module in model.named_modules() if isinstance(module, BatchNormAct2d)]
    if lost:
        raise ValueError(
            f"sync_bn must be None for this model: the activations in {len(lost)} of its BatchNormAct2d "
            f"layers would be lost (first: {lost[0]})"
        )
