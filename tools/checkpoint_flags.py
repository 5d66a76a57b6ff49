"""What a checkpoint of ``linzoo train`` says about the run that wrote it."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def training_checkpoint(path: Path | None) -> Mapping[str, Any]:
    """What a training script saved beside the weights; empty for a file of weights alone."""
    import torch

    if path is None or path.suffix == ".safetensors":
        return {}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        return {}  # whoever reads the weights says what is wrong with it
    return content if isinstance(content, Mapping) else {}


def trained_with(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The flags of the training, by name; empty unless it was ``linzoo train``."""
    saved = content.get("args") if "linzoo" in content else None
    return saved if isinstance(saved, Mapping) else {}
