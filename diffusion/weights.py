"""Weight files: found locally or on the Hub, read as safetensors, checked name by name, loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from .swap import Swap

SHOWN = 3  # names in an error


def locate(source: str | Path, files: Sequence[str]) -> Path:
    """The local file: ``source`` itself, one of ``files`` in the folder ``source``, or one from the Hub.

    A folder that ``save_pipeline`` wrote is taken too. Raises: ValueError, and the Hub's own errors.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"weights must be a .safetensors file or a folder, got {path}")
        return path
    if path.is_dir():
        for folder in (path, path / SUBFOLDER):
            for file in files:
                if (folder / file).is_file():
                    return folder / file
        raise ValueError(f"weights must be a folder that holds {' or '.join(files)}, {path} has none of them")
    text = str(source)
    if text.endswith(".safetensors") or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ValueError(
            f"weights must be a file, a folder or a hub id 'owner/name', {text} is none that exists"
        )
    return download(text, files)


SUBFOLDER = "linearized"  # of a folder that ``save_pipeline`` wrote


def download(repo: str, files: Sequence[str]) -> Path:
    """One of ``files`` of a Hub repository, and config.json beside it where the repository has one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with suppress(EntryNotFoundError):
        hf_hub_download(repo, "config.json")
    for number, file in enumerate(files, 1):
        try:
            return Path(hf_hub_download(repo, file))
        except EntryNotFoundError:
            if number == len(files):
                raise
    raise ValueError("files must name at least one file")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Raises: ValueError when the file is no safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights must be a safetensors file, {path} cannot be read: {error}") from error


def check_names(
    got: Mapping[str, Tensor | torch.Size], wanted: Mapping[str, torch.Size], where: str | Path
) -> None:
    """Raises: ValueError that names what is missing, what is too much and what has another shape."""
    missing = [name for name in wanted if name not in got]
    extra = [name for name in got if name not in wanted]
    shapes = {name: tuple(getattr(got[name], "shape", got[name])) for name in wanted if name in got}
    wrong = [f"{n} is {s}, must be {tuple(wanted[n])}" for n, s in shapes.items() if s != tuple(wanted[n])]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
        if names
    ]
    if faults:
        raise ValueError(f"weights of {where} do not fit the swapped model: {'; '.join(faults)}")


@torch.no_grad()
def load_tensors(model: nn.Module, swap: Swap, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` (by the model's parameter names) in; what lies outside the swap is kept aside first.

    Raises: ValueError before anything is changed.
    """
    parameters = dict(model.named_parameters())
    check_names(tensors, {n: parameters[n].shape for n in tensors if n in parameters}, "weights")
    own = tuple(f"{name}." for name in swap.modules)
    for name, tensor in tensors.items():
        parameter = parameters[name]
        if not name.startswith(own):
            swap.others.setdefault(name, parameter.detach().to("cpu", copy=True))
        if parameter.device.type != "meta":
            parameter.copy_(tensor)
