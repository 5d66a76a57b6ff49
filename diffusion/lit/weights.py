"""LiT's weights: what a swap starts from, and the files that keep a trained model.

No weights are published, so the files are our own: ``config.json`` (options) and ``lit.safetensors``, all
tensors of the model by diffusers' names, because LiT trains the whole model. The second has no name that
``from_pretrained`` looks for: diffusers would load them, with a mere warning, into softmax attention.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import check_names, locate, read_tensors
from .attention import GridConv
from .options import INHERIT, LitOptions, lit_options

CLASS_NAME = "LiT"
CONFIG, TENSORS = "config.json", "lit.safetensors"


@torch.no_grad()
def start(module: nn.Module, options: LitOptions) -> None:
    """Initialise a swapped attention: what is not inherited, and the convolution.

    Random projections are drawn as the DiT repository does: uniform with Xavier's bound, where query, key and
    value count as one layer of three times the width, and biases 0.
    """
    inherited = INHERIT[options.inherit]
    for name in ("to_q", "to_k", "to_v"):
        if name not in inherited:
            draw(getattr(module, name), outputs=3)
    if "to_out" not in inherited:
        draw(module.to_out[0], outputs=1)
    if options.kernel_size:
        like = module.to_v.weight
        width = module.to_v.in_features if options.conv_on == "x" else module.to_v.out_features
        module.conv = GridConv(width, options.kernel_size, device=like.device, dtype=like.dtype)
        module.conv.train(module.training).requires_grad_(like.requires_grad)
        if options.conv_init == "zero":
            nn.init.zeros_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)


def draw(linear: nn.Linear, outputs: int) -> None:
    """Xavier's uniform bound for a layer of ``outputs`` times the features of this one; bias 0."""
    bound = (6 / (linear.in_features + outputs * linear.out_features)) ** 0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def read_lit(
    model: nn.Module, targets: Iterable[str], source: str | Path, words: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by the model's names and the options beside them.

    Raises: ValueError when options contradict ``words``, or tensors do not fit the model.
    """
    path = locate(source, (TENSORS,))
    found = read_config(path.with_name(CONFIG), type(model).__name__)
    saved, asked = lit_options(model, found), lit_options(model, {**found, **words})
    for word in words:
        if getattr(asked, word) != getattr(saved, word):
            raise ValueError(f"{word} must be {getattr(saved, word)!r}, as in {path}, got {words[word]!r}")
    tensors = read_tensors(path)
    check_tensors(tensors, model, tuple(targets), saved, path)
    return tensors, asdict(saved)


def read_config(path: Path, model: str) -> dict[str, Any]:
    """The option words of a ``config.json``. Raises: ValueError when it is not LiT's for such a model."""
    if not path.is_file():
        raise ValueError(f"weights must have their options beside them, {path} is missing")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, it cannot be read: {error}") from error
    kind = config.pop("_class_name", None) if isinstance(config, dict) else None
    if kind != CLASS_NAME:
        raise ValueError(f"_class_name in {path} must be {CLASS_NAME!r}, got {kind!r}")
    base = config.pop("model", None)
    if base != model:
        raise ValueError(f"weights of {path.parent} must be of a {model}, got those of a {base}")
    return config


def check_tensors(
    tensors: Mapping[str, Tensor], model: nn.Module, targets: tuple[str, ...], options: LitOptions, path: Path
) -> None:
    """All of the swapped attentions, and of the rest of the model either everything or nothing."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    prefixes = tuple(f"{name}." for name in targets)
    wanted = {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}
    rest = {name: shape for name, shape in shapes.items() if name not in wanted}
    if options.kernel_size:
        for name in targets:
            width = wanted[f"{name}.to_v.weight"][1 if options.conv_on == "x" else 0]
            wanted[f"{name}.conv.weight"] = torch.Size((width, 1, options.kernel_size, options.kernel_size))
            wanted[f"{name}.conv.bias"] = torch.Size((width,))
    check_names(tensors, wanted | rest if any(name in rest for name in tensors) else wanted, path)


def write_lit(model: nn.Module, options: LitOptions, folder: Path) -> None:
    """Raises: ValueError when LoRA weights lie on the model: the files have no place for them."""
    from safetensors.torch import save_file

    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError(
            "save_pretrained writes no adapters, LoRA weights lie on the model: merge or remove them first"
        )
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    config = {"_class_name": CLASS_NAME, "model": type(model).__name__}
    config |= {field.name: getattr(options, field.name) for field in fields(options)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
