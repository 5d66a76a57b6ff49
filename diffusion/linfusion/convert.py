"""The authors' files <-> the UNet's own parameter names.

Their container numbers the swapped modules, ``17.to_q_.0.weight``; ``modules_list`` in its config.json says
which number is which module of the UNet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..weights import check_names, locate, read_tensors

FILES = ("diffusion_pytorch_model.safetensors",)
CONFIG = "config.json"


def modules_list(modules: Mapping[str, nn.Module], hidden: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """The container's config entry: one line a swapped module."""
    return [
        {
            "module_name": name,
            "dim_n": module.to_q.in_features,
            "heads": module.heads,
            "projection_mid_dim": hidden[name],
        }
        for name, module in modules.items()
    ]


def from_official(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """``17.to_q.weight`` -> ``down_blocks....attn1.to_q.weight``; ``names`` in the container's order.

    Raises: ValueError for a number that has no module.
    """
    found = {}
    for key, tensor in state.items():
        number, _, rest = key.partition(".")
        if not number.isdecimal() or int(number) >= len(names):
            raise ValueError(f"weights must have names NUMBER.NAME with NUMBER below {len(names)}, got {key}")
        found[f"{names[int(number)]}.{rest}"] = tensor
    return found


def to_official(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The other way."""
    numbers = {name: number for number, name in enumerate(names)}
    found = {}
    for key, tensor in state.items():
        name = next(name for name in names if key.startswith(f"{name}."))
        found[f"{numbers[name]}{key.removeprefix(name)}"] = tensor
    return found


def expected_shapes(entry: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one module's tensors, without its number."""
    n, hidden = entry["dim_n"], entry["projection_mid_dim"]
    hidden = n if hidden is None else hidden
    shapes: dict[str, tuple[int, ...]] = {f"to_{x}.weight": (n, n) for x in "qkv"}
    shapes |= {"to_out.0.weight": (n, n), "to_out.0.bias": (n,)}
    if hidden != -1:
        for mlp in ("to_q_", "to_k_"):
            shapes |= {f"{mlp}.0.weight": (hidden, n), f"{mlp}.3.weight": (n, hidden), f"{mlp}.3.bias": (n,)}
            shapes |= {f"{mlp}.{part}": (hidden,) for part in ("0.bias", "1.weight", "1.bias")}
    return shapes


def read_official(
    targets: Mapping[str, nn.Module], source: str | Path
) -> tuple[dict[str, Tensor], dict[str, int | None]]:
    """Files -> tensors by the UNet's names, and the hidden width of each module's MLPs.

    Raises: ValueError that names the first difference between the files and this UNet.
    """
    path = locate(source, FILES)
    entries = read_config(path.with_name(CONFIG))
    check_entries(entries, targets, path.parent)
    state = read_tensors(path)
    wanted = {f"{i}.{name}": s for i, e in enumerate(entries) for name, s in expected_shapes(e).items()}
    check_names(state, wanted, path)
    tensors = from_official(state, [entry["module_name"] for entry in entries])
    return tensors, {entry["module_name"]: entry["projection_mid_dim"] for entry in entries}


def read_config(path: Path) -> list[dict[str, Any]]:
    """``modules_list``. Raises: ValueError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["modules_list"]
        return [{"projection_mid_dim": None, **entry} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"weights must have LinFusion's config.json with modules_list beside them, {path}: {error}"
        ) from error


def check_entries(entries: list[dict[str, Any]], targets: Mapping[str, nn.Module], where: Path) -> None:
    """The same modules, as wide, with as many heads. Raises: ValueError."""
    listed = {entry.get("module_name"): entry for entry in entries}
    if set(listed) != set(targets):
        odd = sorted(map(str, set(listed) ^ set(targets)))[0]
        raise ValueError(
            f"weights of {where} are for another UNet: {len(listed)} modules, this one has {len(targets)}; "
            f"{odd} is in one of them only"
        )
    for name, module in targets.items():
        have, want = (module.to_q.in_features, module.heads), (listed[name]["dim_n"], listed[name]["heads"])
        if have != want:
            raise ValueError(
                f"weights of {where} are for another UNet: {name} has (width, heads) {have}, theirs {want}"
            )
