"""Latents and embeddings on disk: encoded once, for every run with the same data, teacher and settings.

``CACHE/<key>/`` has ``manifest.json`` (the settings, whose hash is the key) and a safetensors file for every
``--shard-size`` pictures. Files are whole or not there, so encoding goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import check_writable, read_json, write_atomic, write_json
from ..runs.log import Log
from .encode import Encoder, factor, fingerprint
from .pictures import Entry, digest, list_entries, read_picture
from .samples import Sample
from .teacher import Teacher

MANIFEST, ABSENT = "manifest.json", "absent.safetensors"
OPEN_FILES = 32


def cached_samples(args: argparse.Namespace, teacher: Teacher, accelerator: Any, log: Log) -> CachedSamples:
    """The pictures of ``--data-dir``, encoded where they are not yet, every process its part.

    Raises: ValueError, OSError naming what does not fit or cannot be read or written.
    """
    if teacher.pipe is None or getattr(teacher.pipe, "vae", None) is None:
        raise ValueError(f"--vae must be given for --dataset {args.dataset}: the teacher has none")
    entries = list_entries(args.dataset, Path(args.data_dir))
    settings = settings_of(args, teacher, entries)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(args.cache) / key
    if accelerator.is_main_process:
        check_writable(folder, "--cache")
        open_manifest(folder, settings)
    accelerator.wait_for_everyone()
    cache = CachedSamples(folder, len(entries), args.shard_size)
    rank, world = accelerator.process_index, accelerator.num_processes
    missing = [number for number in range(cache.shards) if not cache.has(number)][rank::world]
    texts = args.dataset == "captions"
    no_absent = texts and accelerator.is_main_process and not (folder / ABSENT).is_file()
    if missing or no_absent:
        encoder = Encoder(teacher.pipe, accelerator.device, texts)
        if no_absent:
            write_atomic(folder / ABSENT, save(encoder.absent()))
        fill(args, settings["side"], entries, cache, missing, encoder, log)
    accelerator.wait_for_everyone()
    cache.open()
    log.say(f"Cache: {len(entries)} pictures in {folder}, {len(missing)} of {cache.shards} files made now")
    return cache


def settings_of(args: argparse.Namespace, teacher: Teacher, entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything that the cached numbers depend on. Raises: ValueError for an impossible resolution."""
    vae, config = teacher.pipe.vae, teacher.model.config
    step = factor(vae) * (
        2 if hasattr(config, "guidance_embeds") else getattr(config, "patch_size", None) or 1
    )
    default = getattr(teacher.pipe, "default_sample_size", None) or config.sample_size
    side = args.resolution or default * factor(vae)
    if side % step:
        raise ValueError(f"--resolution must be a multiple of {step} for this teacher, got {side}")
    return {
        "version": 1,
        "dataset": args.dataset,
        "side": side,
        "resize": args.resize,
        "hflip": args.hflip,
        "dtype": args.cache_dtype,
        "shard_size": args.shard_size,
        "pictures": len(entries),
        "digest": digest(entries, Path(args.data_dir)),
        "encoders": fingerprint(teacher.pipe, args.dataset == "captions"),
        "pipeline": type(teacher.pipe).__name__,
    }


def open_manifest(folder: Path, settings: dict[str, Any]) -> None:
    """Raises: ValueError when the folder was made with other settings."""
    found = read_json(folder / MANIFEST)
    if found is None:
        write_json(folder / MANIFEST, settings)
    elif found != settings:
        words = [f"{k} {found.get(k)} -> {v}" for k, v in settings.items() if found.get(k) != v]
        raise ValueError(
            f"--cache: {folder / MANIFEST} is of other settings ({', '.join(words)}); remove the folder"
        )


def fill(
    args: argparse.Namespace,
    side: int,
    entries: Sequence[Entry],
    cache: CachedSamples,
    missing: Sequence[int],
    encoder: Encoder,
    log: Log,
) -> None:
    log.start("encoding", sum(len(cache.range(number)) for number in missing), 0, "picture")
    for number in missing:
        parts = []
        places = cache.range(number)
        for start in range(0, len(places), args.encode_batch_size):
            chosen = [entries[i] for i in places[start : start + args.encode_batch_size]]
            parts.append(encode(args, side, chosen, encoder))
            log.advance(len(chosen))
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        try:
            write_atomic(cache.path(number), save({k: v.contiguous() for k, v in tensors.items()}))
        except OSError as error:
            raise OSError(f"cannot write {cache.path(number)}: {error.strerror or error}") from error
    log.end()


def encode(
    args: argparse.Namespace, side: int, entries: Sequence[Entry], encoder: Encoder
) -> dict[str, Tensor]:
    """A few pictures as the cache holds them."""
    pictures = [read_picture(entry.path, side, args.resize) for entry in entries]
    pixels = torch.stack([picture.pixels for picture in pictures])
    found: dict[str, Tensor] = {}
    found["mean"], found["deviation"] = encoder.latents(pixels)
    if args.hflip:
        found["flipped.mean"], found["flipped.deviation"] = encoder.latents(pixels.flip(-1))
    if args.dataset == "captions":
        found |= encoder.captions([str(entry.content) for entry in entries])
        found["time_ids"] = torch.stack([picture.sizes for picture in pictures])
    else:
        found["labels"] = torch.tensor([entry.content for entry in entries])
    dtype = getattr(torch, args.cache_dtype)
    return {name: value.to(dtype) if keeps(name, value) else value for name, value in found.items()}


def keeps(name: str, value: Tensor) -> bool:
    """Whether --cache-dtype applies: sizes of pictures are not exact in half precision."""
    return value.is_floating_point() and name != "time_ids"


class CachedSamples:
    """Samples by index from the files of one cache.

    Args:
        size: pictures.
        shard_size: pictures a file.
    """

    def __init__(self, folder: Path, size: int, shard_size: int) -> None:
        self.folder, self.size, self.shard_size = folder, size, shard_size
        self.shards = -(-size // shard_size)
        self.absent: Mapping[str, Tensor] = {}
        self.shape: tuple[int, int, int] = (0, 0, 0)
        self.file = lru_cache(maxsize=OPEN_FILES)(lambda number: safe_open(self.path(number), "pt"))

    def __len__(self) -> int:
        return self.size

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def range(self, number: int) -> range:
        """The pictures of a file."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.size))

    def has(self, number: int) -> bool:
        """Whether a file is there and holds as many pictures as it must; one that is cut off is not."""
        try:
            with safe_open(self.path(number), "pt") as file:
                return file.get_slice("mean").get_shape()[0] == len(self.range(number))
        except (OSError, SafetensorError):
            return False

    def open(self) -> None:
        """After all files are there."""
        self.shape = tuple(self.file(0).get_slice("mean").get_shape()[1:])
        if (self.folder / ABSENT).is_file():
            self.absent = {name: exact(value) for name, value in load_file(self.folder / ABSENT).items()}

    def read(self, index: int, flipped: bool = False) -> Sample:
        file, row = self.file(index // self.shard_size), index % self.shard_size
        latents = ("flipped.mean", "flipped.deviation") if flipped else ("mean", "deviation")
        found = {name: exact(file.get_slice(name)[row]) for name in file.keys() if "." not in name}  # noqa: SIM118
        if flipped:
            found |= {name: exact(file.get_slice(name)[row]) for name in latents}
        conditions = {k: v for k, v in found.items() if k not in ("mean", "deviation", *latents)}
        return Sample(found[latents[0]], found[latents[1]], conditions)


def exact(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
