"""A detector's weights from files: ours and the authors'.

The authors' files are ``torch.save``d dicts whose ``model_state`` holds every tensor by the names that the
parts here have too (``vfe.``, ``backbone_3d.``, ``backbone_2d.``, ``dense_head.``), in the same layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .checkpoint_files import official_checkpoint

NOT_WEIGHTS = ("global_step",)  # counters in the authors' files
SHOWN = 5  # names that a message lists


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Fills a detector from a file.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote: a checkpoint of ``linzoo train``, the authors'
            ``.pth``, or bare tensors.
    Raises: FileNotFoundError; ValueError for a file that cannot be read, whose names or shapes are not the
        module's, or whose numbers are none (NaN, infinite), before anything is changed.
    """
    tensors = weights_of(read_file(Path(path)))
    check_fit(module, tensors, str(path))
    check_finite(tensors, str(path))
    module.load_state_dict(tensors)


def load_part(module: nn.Module, checkpoint: Mapping[str, Any], part: str) -> None:
    """Fills one part from a file's content: ``part`` is ``backbone_3d``, ``backbone_2d``, ...

    Raises: ValueError as ``load_checkpoint`` does.
    """
    tensors = part_of(weights_of(checkpoint), part)
    check_fit(module, tensors, f"{part} of the checkpoint")
    check_finite(tensors, f"{part} of the checkpoint")
    module.load_state_dict(tensors)


def read_file(path: Path) -> Mapping[str, Any]:
    """A file's content, tensors and plain containers only."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    return official_checkpoint(path)


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in a file's content, by our names.

    Raises: ValueError where there are none.
    """
    for key in ("model_state", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    tensors = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    found = {name: value for name, value in tensors.items() if name not in NOT_WEIGHTS}
    if not found:
        raise ValueError(
            "checkpoint must hold tensors, alone or under 'model_state' or 'state_dict', "
            f"got {listed(map(str, checkpoint))}"
        )
    return found


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors named ``<part>.*``, without that prefix. Raises: ValueError where there are none."""
    prefix = f"{part}."
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if not found:
        raise ValueError(f"checkpoint must have tensors named {prefix}*, got {listed(tensors)}")
    return found


def to_official(module: nn.Module, part: str = "") -> dict[str, dict[str, Tensor]]:
    """What a file of the authors' would hold of a detector, or of one ``part`` of it."""
    prefix = f"{part}." if part else ""
    return {"model_state": {prefix + name: tensor for name, tensor in module.state_dict().items()}}


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises: ValueError unless ``tensors`` have the module's names and shapes, and its kinds of numbers."""
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    foreign = [name for name in tensors if name not in own]
    if missing or foreign:
        raise ValueError(
            f"{what} must hold the {len(own)} tensors of this {type(module).__name__}; "
            f"missing: {listed(missing)}; not its own: {listed(foreign)}"
        )
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{what} must have {name} of shape {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}"
            )
        if tensor.is_floating_point() != tensors[name].is_floating_point():
            raise ValueError(f"{what} must have {name} as {tensor.dtype}, got {tensors[name].dtype}")


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises: ValueError naming the first tensor that holds NaN or infinite numbers."""
    bad = next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)
    if bad is not None:
        raise ValueError(f"{what} must hold finite numbers, {bad} has NaN or infinite ones")


def listed(names: Iterable[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    names = list(names)
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
