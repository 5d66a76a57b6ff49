"""``linzoo convert SRC DST --to official|linzoo -m NAME``: weight files between the authors' names and ours.

Reads any wrapper (``model``, ``model_ema``, ``state_dict``, bare) and either set of names; DST's suffix says
whether safetensors or torch's format is written. DST appears once what was written has been read back.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=Path, help="the authors' file or ours")
    parser.add_argument("target", metavar="DST", type=Path, help="ends in " + ", ".join(SUFFIXES))
    parser.add_argument("-m", "--model", required=True, metavar="NAME", help="whose weights these are")
    parser.add_argument("--to", required=True, choices=("official", "linzoo"), help="names to write")
    parser.add_argument("--force", action="store_true", help="replace DST when it is there")


def run(args: argparse.Namespace) -> int:
    check_target(args.target, args.force)
    from .models import family_module, load_checkpoint

    family = family_module(args.model)
    ours = load_checkpoint(args.model, args.source, whole=True)
    wanted = family.to_official(ours) if args.to == "official" else ours
    write_checked(args.target, wanted, wrap=args.to == "official")
    kind = "the authors'" if args.to == "official" else "linzoo's"
    print(f"{args.target}: {len(wanted)} tensors of {args.model} under {kind} names")
    return 0


def check_target(target: Path, force: bool) -> None:
    if target.suffix not in SUFFIXES:
        raise ValueError(f"DST must end in one of {', '.join(SUFFIXES)}, got {target.name!r}")
    if target.is_dir():
        raise ValueError(f"DST must be a file, {target} is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"DST's folder must be there, {target.parent} is not")
    if target.exists() and not force:
        raise FileExistsError(f"DST must not be there yet, {target} is; --force replaces it")


def write_checked(target: Path, tensors: dict[str, Tensor], wrap: bool) -> None:
    """Write under a temporary name, read back, compare, then rename; ``wrap``: under "model" in a .pth.

    Raises: OSError; RuntimeError when what was read differs. The target is unchanged then.
    """
    import torch
    from safetensors.torch import save_file

    from ..vision.weights import load_official

    tensors = {
        key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()
    }
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        if target.suffix == ".safetensors":
            save_file(tensors, temporary, metadata={"format": "pt"})
        else:  # the authors' training scripts look for "model"
            torch.save({"model": tensors} if wrap else tensors, temporary)
        back = load_official(temporary)
        if back.keys() != tensors.keys() or not all(torch.equal(back[key], tensors[key]) for key in back):
            raise RuntimeError(f"{target}: what was written reads back differently; nothing was kept")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
