"""Finding, building and loading models by name, for the commands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def families() -> tuple[str, ...]:
    """The family names of ``linzoo.vision``, which are also its subpackages and timm's module names."""
    return tuple(import_module("linzoo.vision").FAMILIES)


def names_of(family: str) -> list[str]:
    import timm

    return timm.list_models(module=family)


def our_names() -> list[str]:
    return [name for family in families() for name in names_of(family)]


def family_of(name: str) -> str | None:
    """The family that registers ``name`` (with or without a tag), None for one of timm's own models."""
    base = name.partition(".")[0]
    return next((family for family in families() if base in names_of(family)), None)


def check_name(name: str) -> str:
    """Return ``name`` when timm's registry (ours included) knows it.

    Raises: ValueError with the nearest names, ours before timm's.
    """
    import timm

    ours = our_names()
    base, _, tag = name.partition(".")
    if timm.is_model(base):
        tagged = timm.list_models(f"{base}.*", include_tags=True) if tag else [name]
        if name not in tagged:
            known = ", ".join(tagged) or "none"
            raise ValueError(
                f"model must be a name known to timm or linzoo, {base} has no tag {tag!r}; has {known}"
            )
        return name
    from ..pointcloud import list_detectors

    if name in list_detectors():
        raise ValueError(
            f"model must be a name known to timm or linzoo, {name} is a LiDAR detector "
            "(`linzoo list --detectors`)"
        )
    near = get_close_matches(base.lower(), ours) or get_close_matches(base.lower(), timm.list_models())
    hint = f"did you mean {' or '.join(near)}?" if near else "`linzoo list` shows the names"
    raise ValueError(f"model must be a name known to timm or linzoo, got {name!r}; {hint}")


def meta_model(name: str, **kwargs) -> nn.Module:
    """The model without memory or initialisation, for counting and for checking a weight file against."""
    import timm
    import torch

    check_name(name)
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_macs(name: str, size: int) -> int:
    """Multiply-adds of one forward of one ``size`` x ``size`` picture; matrix products and convolutions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = meta_model(name)
    channels = model.pretrained_cfg["input_size"][0]
    ops = {torch.ops.linzoo.lin_reduce: state_flops, torch.ops.linzoo.lin_readout: state_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ops) as counter:
        model(torch.empty(1, channels, size, size, device="meta"))
    return counter.get_total_flops() // 2


def state_flops(tokens: Sequence[int], other: Sequence[int], *_: object, **__: object) -> int:
    """Of a product of (B, N, H, D) tokens with (B, N, H, E) values or with a (B, H, D, E) state."""
    batch, n, heads, width = tokens
    return 2 * batch * n * heads * width * other[-1]


def has_published_weights(name: str) -> bool:
    """Whether timm knows where to fetch weights for ``name`` (with or without a tag)."""
    import timm

    cfg = timm.get_pretrained_cfg(check_name(name))
    return cfg is not None and cfg.has_weights


def weights_origin(cfg: Mapping) -> str:
    """One line: where ``pretrained=True`` would fetch weights from."""
    if cfg.get("hf_hub_id"):
        file = cfg.get("hf_hub_filename")
        return f"Hugging Face hub, {cfg['hf_hub_id']}" + (f", file {file}" if file else "")
    if cfg.get("url"):
        return cfg["url"]
    return "none published under a known address; pass a file with --checkpoint"


def paper(cfg: Mapping) -> str:
    """The papers' identifiers, such as arXiv:2411.07635; empty when the configuration names none."""
    ids = cfg.get("paper_ids") or ()
    return ids if isinstance(ids, str) else ", ".join(ids)


def card_summary(family: str) -> str:
    """The first paragraph of plain text in the family's card, its README; empty when there is no card."""
    try:
        card = resources.files(f"linzoo.vision.{family}").joinpath("README.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    paragraphs = (" ".join(p.split()) for p in card.split("\n\n"))
    text = next((p for p in paragraphs if p and not p.startswith(("#", "|", "```", "!", ">", "*"))), "")
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("`", "").replace("*", "").rstrip(":")


def family_module(name: str) -> ModuleType:
    """The subpackage of ``linzoo.vision`` that has ``name``.

    Raises: ValueError for an unknown name (the nearest are suggested) and for timm's own models.
    """
    check_name(name)
    family = family_of(name)
    if family is None:
        raise ValueError(
            f"model must be one of linzoo's, {name!r} is timm's own; `linzoo list` shows the names"
        )
    return import_module(f"linzoo.vision.{family}")


def load_checkpoint(name: str, path: Path, whole: bool = False, **kwargs) -> dict[str, Tensor]:
    """The weights of model ``name`` in a file of the authors or of ours, under our names, checked.

    Args:
        whole: keep what the classifier model does not have (norms of a dense-prediction file).
        kwargs: of the model, where it is not the published one.
    Raises: FileNotFoundError; ValueError for a damaged file, other weights, missing or foreign tensors.
    """
    from ..vision.weights import load_official

    check_name(name)
    tensors = load_official(path)
    if not whole or family_of(name) is None:
        return fit_checkpoint(name, tensors, **kwargs)
    family = family_module(name)
    fit_checkpoint(name, tensors, **kwargs)
    return family.from_official(tensors) if family.OFFICIAL.has(tensors) else tensors


def fit_checkpoint(name: str, checkpoint: Mapping, **kwargs) -> dict[str, Tensor]:
    """The weights in a checkpoint, wrapped or not, under the names of model ``name`` (timm's own: as is).

    Raises: ValueError for other weights, missing or foreign tensors.
    """
    from ..vision.weights import unwrap

    if family_of(check_name(name)) is None:
        return unwrap(checkpoint)
    return family_module(name).checkpoint_filter_fn(checkpoint, meta_model(name, **kwargs))


def model_with(name: str, tensors: Mapping[str, Tensor], source: str, **kwargs) -> nn.Module:
    """The model with these weights (our names); classes and input channels as the weights have them.

    Raises: ValueError listing what is missing, unexpected or of another shape.
    """
    import timm

    cfg = meta_model(name, **kwargs).pretrained_cfg
    sizes = dict(kwargs)
    head, stem = (tensors.get(f"{cfg.get(part)}.weight") for part in ("classifier", "first_conv"))
    if head is not None:
        sizes["num_classes"] = head.shape[0]
    if stem is not None and stem.shape[1] != cfg["input_size"][0]:
        sizes["in_chans"] = stem.shape[1]
    model = timm.create_model(name, **sizes)
    want = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    have = {key: tuple(value.shape) for key, value in tensors.items()}
    faults = [f"missing {key}" for key in want.keys() - have.keys()]
    faults += [f"unexpected {key}" for key in have.keys() - want.keys()]
    differ = [key for key in want.keys() & have.keys() if want[key] != have[key]]
    faults += [f"{key} is {have[key]}, must be {want[key]}" for key in differ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{source} does not fit {name}: {'; '.join(sorted(faults)[:3])}{more}")
    model.load_state_dict(dict(tensors), strict=True)
    return model
