"""The authors' files <-> the model's own parameter names.

Theirs are ``clear_local_RADIUS.safetensors`` and ``clear_local_RADIUS_down_FACTOR.safetensors``, tensors by
the transformer's names; ``spatial_weight`` lies on the processor there, on the attention here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..weights import SUBFOLDER, check_names, locate, read_tensors
from .options import NAME, ClearOptions

HUB_ID = "Huage001/CLEAR"
CONFIG = "config.json"
WEIGHT = "spatial_weight"
PUBLISHED = ((8, 1), (16, 1), (32, 1), (8, 4), (16, 4))  # radius, down_factor
FILE_NAME = re.compile(
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
    match = FILE_NAME.fullmatch(name.removesuffix(".safetensors"))
    if match is None:
        return {}
    radius = float(match["radius"])
    words = {
        "radius": int(radius) if radius.is_integer() else radius,
        "down_factor": int(match["factor"] or 1),
    }
    if match["rows"]:
        words["pooled_tokens"] = (int(match["rows"]), int(match["columns"]))
    return words


def words_of_config(path: Path) -> dict[str, Any]:
    """The options in a config.json of ours; none where there is no file, or one that names no method.

    Raises: ValueError where it is another method's.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"weights have a config.json that cannot be read, {path}: {error}") from error
    if not isinstance(config, dict) or "method" not in config:
        return {}
    if config["method"] != NAME:
        raise ValueError(f"weights must be those of method='clear', {path} says {config['method']!r}")
    found = {field.name: config[field.name] for field in fields(ClearOptions) if field.name in config}
    pooled = found.pop("pooled_tokens", None)
    return found | ({"pooled_tokens": tuple(pooled)} if pooled else {})


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
    path = locate(source, candidates(source, words))
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


def candidates(source: str | Path, words: Mapping[str, Any]) -> list[str]:
    """File names, best first: by the config beside them, the only one of this form, by the options."""
    own = {field.name for field in fields(ClearOptions)}
    options = ClearOptions(**{k: v for k, v in words.items() if k in own})
    by_options = [file_name(options), file_name(replace(options, pooled_tokens=None))]
    if str(source) == HUB_ID and not Path(source).exists():
        check_published(options)
        return by_options[1:]
    if Path(source).is_dir():
        folders = (Path(source), Path(source) / SUBFOLDER)
        config = next(filter(None, (words_of_config(folder / CONFIG) for folder in folders)), {})
        found = {file.name for folder in folders for file in folder.glob("clear_local_*.safetensors")}
        only = list(found) if len(found) == 1 else []
    else:
        config, only = {} if Path(source).exists() else words_of_hub(str(source)), []
    return [*([file_name(ClearOptions(**config))] if config else []), *only, *by_options]


def check_published(options: ClearOptions) -> None:
    if (options.radius, options.down_factor) not in PUBLISHED:
        known = ", ".join(f"radius={r}" + (f" down_factor={f}" if f > 1 else "") for r, f in PUBLISHED)
        raise ValueError(
            f"linearize: {HUB_ID} has no weights for radius={options.radius} "
            f"down_factor={options.down_factor}; it has {known}"
        )


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
    config = {"method": NAME, **asdict(options)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
