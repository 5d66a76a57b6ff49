"""Weights of a backbone: published by timm, the authors' files or ours, of classifiers or of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import timm
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from ..weights import Official, StateDict, check_finite, load_official, unwrap
from .body import inner, make_body

if TYPE_CHECKING:
    from .backbone import LinzooBackbone

OURS = ("body.", "out_norms.")  # how the names in a LinzooBackbone begin


def _pretrained_entries(init_cfg: dict | list[dict] | None) -> list[dict]:
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    return [e for e in entries if e.get("type") in ("Pretrained", "PretrainedInit", PretrainedInit)]


def check_source(
    name: str, pretrained: object, init_cfg: dict | list[dict] | None, model_kwargs: Mapping[str, object]
) -> None:
    """Raises ValueError unless at most one place names weights, and these can be found for model ``name``."""
    # hf-hub:, local-dir: have their weights with them; timm's configuration can be given too
    elsewhere = ":" in name or any(key.startswith("pretrained_cfg") for key in model_kwargs)
    if pretrained is True and not elsewhere and not timm.get_pretrained_cfg(name).has_weights:
        raise ValueError(
            f"LinzooBackbone: pretrained must be a file or False: no weights are published for {name} under "
            "a known address"
        )
    if not isinstance(pretrained, (bool, str, Path)) or pretrained == "":
        raise ValueError(f"LinzooBackbone: pretrained must be True, False or a file, got {pretrained!r}")
    entries = _pretrained_entries(init_cfg)
    if len(entries) + bool(pretrained) > 1:
        raise ValueError("LinzooBackbone: weights must be named once, by pretrained or by init_cfg; got both")
    if entries and not isinstance(entries[0].get("checkpoint"), (str, Path)):
        got = entries[0].get("checkpoint")
        raise ValueError(f"LinzooBackbone: init_cfg of type Pretrained must name a checkpoint, got {got!r}")


def source_of(pretrained: bool | str | Path, init_cfg: dict | list[dict] | None) -> bool | str | None:
    """True for timm's weights, a file or an address, or None."""
    entries = _pretrained_entries(init_cfg)
    if entries:
        return str(entries[0]["checkpoint"])
    return True if pretrained is True else (str(pretrained) if pretrained else None)


def read(source: str) -> StateDict:
    """Weights of a file or of an address that mmengine knows (``https://``, ...), unwrapped."""
    if "://" in source:
        return unwrap(CheckpointLoader.load_checkpoint(source, map_location="cpu"))
    return load_official(source)


def load(backbone: LinzooBackbone, source: bool | str) -> None:
    """Weights of ``source`` into ``backbone``.

    Raises: FileNotFoundError; ValueError, with the backbone unchanged, for other weights.
    """
    backbone.load_state_dict(fitting(backbone, source), strict=False)


def fitting(backbone: LinzooBackbone, source: bool | str) -> StateDict:
    """Weights of ``source`` under the backbone's names: its whole body, and norms of outputs where there are.

    Raises: FileNotFoundError; ValueError for other weights.
    """
    weights = None if source is True else read(source)
    if weights is not None and any(k.startswith("body.") for k in weights):  # a detector of ours
        state = {k: v for k, v in weights.items() if k.startswith(OURS)}
    else:
        state = {f"body.{k}": v for k, v in _fresh_body(backbone, weights, source).items()}
        state |= {k: v for k, v in _official(backbone, weights or {}).items() if k.startswith("out_norms.")}
    wanted = backbone.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or not k.startswith("out_norms.")}
    check_finite(state, f"LinzooBackbone: {source}")
    faults = differences(state, wanted, optional="out_norms.")
    if faults:
        raise ValueError(f"LinzooBackbone: {source} does not fit {backbone.model_name}: {faults}")
    return state


def _fresh_body(backbone: LinzooBackbone, weights: StateDict | None, source: bool | str) -> StateDict:
    """The weights as timm puts them into a new body, with its own renaming."""
    overlay = {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": weights}}

    def make() -> StateDict:
        options = {**backbone.model_kwargs, "pretrained": True, **overlay}
        return make_body(backbone.model_name, own_arguments=(), **options).state_dict()

    try:
        state = make()
    except RuntimeError as error:  # torch's list of names and shapes
        what = "the published weights" if source is True else source
        raise ValueError(
            f"LinzooBackbone: {what} cannot be loaded into {backbone.model_name}: {error}"
        ) from error
    if weights is not None and getattr(inner(backbone.body), "official", None) is None:
        # timm passes over what is missing: that is drawn at random, so a second body has other values
        drawn = [k for k, v in make().items() if not v.equal(state[k])]
        if drawn:
            raise ValueError(
                f"LinzooBackbone: {source} must hold every tensor of {backbone.model_name}, at least "
                f"{len(drawn)} of {len(state)} are not in it (first: {drawn[0]}): another model's file?"
            )
    return state


def differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: str = "\n") -> str:
    """What ``state`` lacks of ``wanted``, has too much or in another shape; "" when nothing differs."""
    faults = [f"{k} is missing" for k in wanted if k not in state and not k.startswith(optional)]
    faults += [f"{k} is too much" for k in state if k not in wanted]
    faults += [
        f"{k} is {tuple(state[k].shape)}, must be {tuple(w.shape)}"
        for k, w in wanted.items()
        if k in state and state[k].shape != w.shape
    ]
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    return "; ".join(faults[:4]) + more


def _official(backbone: LinzooBackbone, weights: StateDict) -> StateDict:
    """Names of the authors' file to ours; nothing when the weights are not in the family's format."""
    official: Official | None = getattr(inner(backbone.body), "official", None)
    return official.rename(weights) if official is not None and official.has(weights) else {}


def rename_in_place(backbone: LinzooBackbone, state_dict: dict[str, Tensor], prefix: str) -> None:
    """The authors' names behind ``prefix`` to those of a LinzooBackbone; other names are left alone."""
    theirs = {
        k[len(prefix) :]: v
        for k, v in state_dict.items()
        if k.startswith(prefix) and not k.startswith(tuple(prefix + o for o in OURS))
    }
    renamed = _official(backbone, theirs)
    if not renamed:
        return
    check_finite(theirs, "LinzooBackbone")
    for key in theirs:
        del state_dict[prefix + key]
    wanted = backbone.state_dict()
    for key, tensor in renamed.items():
        ours = key if key.startswith("out_norms.") else f"body.model.{key}"
        if ours in wanted:  # norms of stages that are not returned, neck and classifier stay behind
            state_dict[prefix + ours] = tensor
