"""The authors' files <-> the model's own parameter names.

Theirs are ``clear_local_RADIUS.safetensors`` and ``clear_local_RADIUS_down_FACTOR.safetensors``, tensors by
the transformer's names; ``spatial_weight`` lies on the processor there, on the attention here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..weights import SUBFOLDER, check_names, locate, read_tensors
from .options import METHOD, ClearOptions

HUB_ID = "Huage001/CLEAR"
CONFIG = "config.json"
WEIGHT = "spatial_weight"
PUBLISHED = ((8, 1), (16, 1), (32, 1), (8, 4), (16, 4))  # radius, down_factor
NAME = re.compile(
    r"clear_local_(?P<radius>\d+(?:\.\d+)?)(?:_down_(?P<factor>\d+))?(?:_pooled_(?P<rows>\d+)x(?P<columns>\d+))?"
)


def file_name(options: ClearOptions) -> str:
    """The authors' name; theirs have no ``pooled_tokens``."""
    name = f"clear_local_{options.radius:.15g}"
    if options.down_factor > 1:
        name += f"_down_{options.down_factor}"
    if options.pooled_tokens is not None:
        name += "_pooled_{}x{}".format(*options.pooled_tokens)
    return f"{name}.safetensors"


def words_of_name(name: str) -> dict[str, Any]:
    """The options that a file name tells; none where it has another form."""
    match = NAME.fullmatch(name.removesuffix(".safetensors"))
    if match is None:
        return {}
    radius, pooled = float(match["radius"]), None
    if match["rows"]:
        pooled = (int(match["rows"]), int(match["columns"]))
    return {
        "radius": int(radius) if radius.is_integer() else radius,
        "down_factor": int(match["factor"] or 1),
        "pooled_tokens": pooled,
    }


def words_of_config(path: Path) -> dict[str, Any]:
    """The options in a config.json that ``write_config`` wrote; none where there is no file.

    Raises: ValueError where the file is another one's.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["method"] != METHOD:
            raise KeyError(f"method is {config['method']!r}")
        found = {field.name: config[field.name] for field in fields(ClearOptions) if field.name in config}
        pooled = found.get("pooled_tokens")
        return found | ({"pooled_tokens": tuple(pooled)} if pooled else {})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be the config.json of a saved clear swap: {error}") from error


def words_of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    for name, tensor in tensors.items():
        if name.endswith(f".{WEIGHT}"):
            return {"down_factor": tensor.shape[3] if tensor.dim() == 7 else 1}
    return {"down_factor": 1}


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``....attn.processor.spatial_weight`` -> ``....attn.spatial_weight``."""
    return {name.replace(f".processor.{WEIGHT}", f".{WEIGHT}"): tensor for name, tensor in tensors.items()}


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way."""
    ending = f".{WEIGHT}"
    return {
        f"{name.removesuffix(ending)}.processor{ending}" if name.endswith(ending) else name: tensor
        for name, tensor in tensors.items()
    }


def read_files(
    source: str | Path, words: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file, a folder or a hub id -> tensors by our names, and the options that they settle.

    Args:
        words: options that the caller gave.
        wanted: names and shapes of the trained tensors, without ``spatial_weight``.
    Raises: ValueError for files that contradict ``words``, one another, or the model.
    """
    path = locate(source, [chosen_file(source, words)])
    tensors = from_official(read_tensors(path))
    config = words_of_config(path.with_name(CONFIG))
    named, shaped = words_of_name(path.name), words_of_tensors(tensors)
    places = {f"the name {path.name}": named, "the shape of its tensors": shaped}
    places |= {CONFIG: config, "the call": words}
    found = agreed(places)
    if "radius" not in found:
        raise ValueError(
            f"linearize: radius must be given, neither the name of {path} nor a {CONFIG} beside it tells"
        )
    check_names(tensors, dict(wanted) | weight_shapes(wanted, found["down_factor"]), path)
    return tensors, found


def chosen_file(source: str | Path, words: Mapping[str, Any]) -> str:
    """Of a folder its only file of this form, else the one of the options; hub: what its config says."""
    own = {field.name for field in fields(ClearOptions)}
    options = ClearOptions(**{k: v for k, v in words.items() if k in own})
    path = Path(source)
    if path.is_dir():
        folders = (path, path / SUBFOLDER)
        names = {file.name for folder in folders for file in folder.glob("clear_local_*.safetensors")}
        return names.pop() if len(names) == 1 else file_name(options)
    if not path.exists() and source != HUB_ID:
        return file_name(ClearOptions(**words_of_hub(str(source)) or asdict(options)))
    if str(source) == HUB_ID and (options.radius, options.down_factor) not in PUBLISHED:
        known = ", ".join(f"radius={r}" + (f" down_factor={f}" if f > 1 else "") for r, f in PUBLISHED)
        raise ValueError(
            f"linearize: {HUB_ID} has no weights for radius={options.radius} "
            f"down_factor={options.down_factor}; it has {known}"
        )
    return file_name(options)


def words_of_hub(repo: str) -> dict[str, Any]:
    """What the config.json of a repository says; none where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return words_of_config(Path(hf_hub_download(repo, CONFIG)))
    except (EntryNotFoundError, HFValidationError):
        return {}


def agreed(places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One table of options. Raises: ValueError where two places differ in one that belongs to the weights."""
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for place, words in places.items():
        for name in ("radius", "down_factor", "pooled_tokens"):
            if name not in words:
                continue
            value = tuple(words[name]) if isinstance(words[name], list) else words[name]
            if name in found and found[name] != value:
                raise ValueError(
                    f"linearize: {name} must be {found[name]}, as {origin[name]} says; {place} says {value}"
                )
            found.setdefault(name, value)
            origin.setdefault(name, place)
    return dict(places[CONFIG]) | found


def weight_shapes(wanted: Mapping[str, tuple[int, ...]], factor: int) -> dict[str, tuple[int, ...]]:
    """``spatial_weight`` of every attention among ``wanted``."""
    if factor == 1:
        return {}
    attentions = dict.fromkeys(name.rpartition(".to_q.")[0] for name in wanted if ".to_q." in name)
    return {f"{name}.{WEIGHT}": (1, 1, 1, factor, 1, factor, 1) for name in attentions}


def write_files(options: ClearOptions, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """The authors' file and a config.json."""
    from safetensors.torch import save_file

    state = {name: tensor.cpu().contiguous() for name, tensor in to_official(tensors).items()}
    save_file(state, folder / file_name(options), metadata={"format": "pt"})
    config = {"method": METHOD, **asdict(options)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
