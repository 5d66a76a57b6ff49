"""Every frame of a split read once: its faults, its facts, its objects; saved part by part.

A part is written whole or not at all, so whatever ends a run costs at most a part. The files that readers
look for are written last: the objects, then the facts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pointcloud.boxes.checks import first_unfit
from ...pointcloud.data.paste import PasteDatabase
from ...pointcloud.data.prepared import DamagedFacts
from ...pointcloud.records import Frame
from ..files import read_json, remove_leftovers, write_atomic, write_json
from ..runs.log import Log
from ..training.batches import DataError
from .batches import scored_labels


@dataclass(frozen=True, kw_only=True)
class Options:
    """part: frames between two savings.  min_points: of an object to paste.  limit: most such objects of a
    class, 0: none are stored.  skip_faulty: frames with faults are left out, else nothing is stored.
    """

    part: int
    min_points: int
    limit: int
    skip_faulty: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a split holds.

    frames: without those that have faults.  unlabelled: of them, those without objects.  objects: by class.
    pasted: objects stored.  faults: frame and message.  assumed_sizes: frames whose picture is not there.
    """

    split: str
    frames: int
    unlabelled: int
    objects: Mapping[str, int]
    pasted: int
    faults: Sequence[Sequence[str]]
    assumed_sizes: int


def prepare_split(open_data: Callable[[], Any], options: Options, again: bool, log: Log) -> Summary:
    """Check and store one split; what is stored already for the same options is only reported.

    Args:
        open_data: makes the data set (``KittiFrames``, ...), its facts read from its ``prepared`` files.
        again: what was stored is forgotten first.
    Raises: ValueError, OSError for a data set that cannot be opened; a fault of a frame is in the summary.
    """
    try:
        data = open_data()
    except DamagedFacts as error:
        if not again:
            raise
        error.file.unlink()
        data = open_data()
    if not again and (stored := _stored(data, options)) is not None:
        log.say(f"{data.split}: prepared already, {data.prepared.facts_file}")
        return stored
    if data.prepared.facts_file.is_file():
        data.prepared.facts_file.unlink()
        data = open_data()  # facts from the data set's own files
    folder = data.prepared.parts_folder
    _begin(folder, {"settings": data.prepared.stamp(), "options": _lasting(options)}, again)
    starts = range(0, len(data), options.part)
    parts = []
    log.start(f"prepare {data.split}", len(data), 0, "frame")
    try:
        for number, start in enumerate(starts):
            part = read_json(folder / f"{number:06d}.json")
            indices = range(start, min(start + options.part, len(data)))
            if part is None or part["faults"]:
                part = _prepare_part(data, indices, options, folder / f"{number:06d}.json")
            parts.append(part)
            log.advance(len(indices))
    finally:
        log.end()
    return _finish(data, parts, options)


def _lasting(options: Options) -> dict[str, Any]:
    """The options that stored parts depend on."""
    return {"part": options.part, "min_points": options.min_points, "paste": options.limit > 0}


def _stored(data: Any, options: Options) -> Summary | None:
    """The summary of an earlier run with these options, if it stored anything."""
    found = data.prepared.read_summary()
    if found is None or found["options"] != asdict(options):
        return None
    if options.limit and not data.prepared.paste_file.is_file():
        return None
    return Summary(**found["summary"])


def _begin(folder: Path, stamp: Mapping[str, Any], again: bool) -> None:
    """The folder of parts, emptied unless its parts were made in the same way."""
    if folder.is_dir() and (again or read_json(folder / "settings.json") != stamp):
        shutil.rmtree(folder)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        write_json(folder / "settings.json", stamp)
    remove_leftovers(folder)


def _prepare_part(data: Any, indices: range, options: Options, file: Path) -> dict[str, Any]:
    """Read some frames; write their objects, then their facts."""
    records, faults, objects, unlabelled = [], [], [], 0
    counts = torch.zeros(len(data.classes), dtype=torch.int64)
    for index in indices:
        try:
            frame = data[index]
            check_frame(frame, data.classes)
            scored_labels(data, frame)
            record = data.prepared_record(index, frame)
        except (ValueError, OSError, DataError) as error:
            faults.append([_name(data, index), " ".join(str(error).split())])
            continue
        records.append(record)
        counts += torch.bincount(frame.labels.classes, minlength=len(data.classes))
        unlabelled += len(frame.labels.classes) == 0
        if options.limit:
            objects.append(PasteDatabase.of_frame(frame, data.classes, min_points=options.min_points))
    database = PasteDatabase.joined(objects, data.classes, data.point_features)
    if options.limit:
        write_atomic(file.with_suffix(".safetensors"), database.to_bytes(options.min_points))
    part = {
        "frames": records,
        "faults": faults,
        "objects": counts.tolist(),
        "unlabelled": int(unlabelled),
        "paste_classes": database.classes.tolist(),
    }
    write_json(file, part)
    return part


def _name(data: Any, index: int) -> str:
    """Of a frame whose facts may not be readable."""
    return data.names[index] if hasattr(data, "names") else data.record(index)["name"]


def check_frame(frame: Frame, classes: Sequence[str]) -> None:
    """Raises: ValueError for a frame without points, or with a box that is not finite or has no extent."""
    if len(frame.points) == 0:
        raise ValueError("holds no points (in the field of view, outside no-label zones)")
    boxes = frame.labels.boxes
    row = first_unfit(boxes)
    if row is not None:
        values = [round(value, 3) for value in boxes[row].tolist()]
        name = classes[int(frame.labels.classes[row])]
        raise ValueError(f"object {row} ({name}) must have finite values and sizes above 0, got {values}")


def _finish(data: Any, parts: Sequence[Mapping[str, Any]], options: Options) -> Summary:
    """Parts joined into the files that readers look for; none are written if faults are not to be skipped."""
    faults = [fault for part in parts for fault in part["faults"]]
    records = [record for part in parts for record in part["frames"]]
    kept = choose_objects([part["paste_classes"] for part in parts], options.limit)
    summary = Summary(
        split=data.split,
        frames=len(records),
        unlabelled=sum(part["unlabelled"] for part in parts),
        objects={name: sum(part["objects"][i] for part in parts) for i, name in enumerate(data.classes)},
        pasted=sum(int(mask.sum()) for mask in kept),
        faults=faults,
        assumed_sizes=sum(bool(record.get("size_assumed")) for record in records),
    )
    if faults and not (options.skip_faulty and records):
        return summary
    prepared = data.prepared
    if options.limit:
        files = sorted(prepared.parts_folder.glob("*.safetensors"))
        chosen = [PasteDatabase.load(file).chosen(mask) for file, mask in zip(files, kept, strict=True)]
        database = PasteDatabase.joined(chosen, data.classes, data.point_features)
        write_atomic(prepared.paste_file, database.to_bytes(options.min_points))
    found = {"options": asdict(options), "summary": asdict(summary)}
    write_atomic(prepared.facts_file, prepared.content(records, found))
    shutil.rmtree(prepared.parts_folder)
    return summary


def choose_objects(classes: Sequence[Sequence[int]], limit: int) -> list[torch.Tensor]:
    """A mask for the objects of each part: of a class with more than ``limit``, an even draw.

    Args:
        classes: of the objects of each part.
    """
    if not classes:
        return []
    every = np.array([number for part in classes for number in part], dtype=np.int64)
    kept = np.ones(len(every), dtype=bool)
    chance = np.random.default_rng(0)
    for number in np.unique(every):
        held = (every == number).nonzero()[0]
        if len(held) > limit:
            kept[held] = False
            kept[chance.choice(held, limit, replace=False)] = True
    ends = np.cumsum([len(part) for part in classes])
    return [torch.from_numpy(mask) for mask in np.split(kept, ends[:-1])]
