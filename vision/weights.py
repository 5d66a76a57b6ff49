"""Reading checkpoints: unwrapping, refusing what cannot be one, and timm's filter for official files."""

import argparse
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")

StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Official:
    """The format of a family's published files.

    Args:
        marks: a regular expression; a file is the authors' when it is found in one of the names.
        rename: official names and shapes to ours; raises ValueError for names that it does not know.
    """

    marks: str
    rename: Callable[[Mapping[str, Tensor]], StateDict]

    def has(self, names: Iterable[str]) -> bool:
        return any(re.search(self.marks, name) for name in names)


def unwrap(checkpoint: Mapping) -> StateDict:
    """The weights within a training checkpoint.

    Looks under ``state_dict_ema``, ``model_ema``, ``model``, ``state_dict`` and ``module``, in this order and
    again within what it finds, else takes the mapping itself. Strips the prefixes that wrappers leave
    (``module.``, ``_orig_mod.``, ``model.`` where every name has it, ``backbone.`` where any has it), in any
    order and as often as they occur; of a detection file only the backbone is kept.
    Raises: ValueError when there is no mapping of names to tensors.
    """
    found = checkpoint
    while isinstance(found, Mapping):
        name = next((w for w in WRAPPERS if isinstance(found.get(w), Mapping)), None)
        if name is None:
            break
        found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"checkpoint must be a mapping of names to tensors, got {_describe(found)}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"checkpoint must map names to tensors, got {_describe(value)} under {key!r}")
    weights, before = dict(found), None
    while weights is not before:
        before = weights
        for prefix in PREFIXES:
            inside = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            # a detector keeps its necks and heads beside the backbone; the other wrappers prefix everything
            if inside and (prefix == "backbone." or len(inside) == len(weights)):
                weights = inside
    return weights


def _describe(value: object) -> str:
    empty = isinstance(value, Mapping) and not value
    return "an empty mapping" if empty else type(value).__name__


def check_finite(state_dict: Mapping[str, Tensor], model_name: str) -> None:
    """Raises ValueError when a tensor holds NaN or Inf; the message begins with ``model_name``."""
    filled = {k: v for k, v in state_dict.items() if v.is_floating_point() and not v.is_meta}
    bad = [k for k, v in filled.items() if not v.isfinite().all()]
    if bad:
        raise ValueError(
            f"{model_name}: checkpoint must be finite, got NaN or Inf in {len(bad)} of {len(state_dict)} "
            f"tensors (first: {bad[0]})"
        )


def rename_official(state_dict: dict[str, Tensor], prefix: str, official: Official, model_name: str) -> None:
    """In place: the authors' names behind ``prefix`` to ours; a state dict without any is left alone.

    Raises: ValueError for names that no official file has and, only where names are changed, NaN or Inf.
    """
    weights = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    if not official.has(weights):
        return
    check_finite(weights, model_name)
    renamed = official.rename(weights)
    for key in weights:
        del state_dict[prefix + key]
    for key, tensor in renamed.items():
        if not key.startswith("out_norms."):
            state_dict[prefix + key] = tensor


def load_official(path: str | Path) -> StateDict:
    """The weights in a file: safetensors, or what torch.save wrote. Executes no code from the file.

    Returns: names as in the file, unwrapped; see ``unwrap``.
    Raises: FileNotFoundError; ValueError for a damaged or foreign file, or a pickle of other classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return unwrap(load_file(path))
        # DeiT-style training scripts keep their argparse.Namespace beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError:
        raise ValueError(
            f"checkpoint must hold only tensors and plain containers, {str(path)!r} does not "
            "(it is damaged, no checkpoint, or would run code when loaded)"
        ) from None  # torch's own words advise to load it all the same
    except ValueError:
        raise
    except Exception as error:  # zip, safetensors and torch each have their own classes for a damaged file
        raise ValueError(f"checkpoint {str(path)!r} cannot be read, truncated? {error}") from error


def filter_checkpoint(state_dict: Mapping, model: nn.Module, official: Official) -> StateDict:
    """What a family's ``checkpoint_filter_fn`` does: authors' names or ours in, names of ``model`` out.

    Args:
        state_dict: a checkpoint, wrapped or not.
        model: the model to load into, or timm's features_only wrapper around it.
        official: the family's.
    Returns: a state dict for ``model.load_state_dict``; the first convolution and the classifier may differ
        in shape from the model's, as timm adapts them.
    Raises: ValueError for another model's file, non-finite tensors, and missing or additional tensors.
    """
    name = type(model).__name__
    weights = unwrap(state_dict)
    wrapped = isinstance(model, FeatureGetterNet)
    body = model.model if wrapped else model  # the pruned backbone
    wanted = body.state_dict()
    theirs = official.has(weights)
    if not theirs and not any(key in wanted for key in weights):
        first = ", ".join(list(weights)[:3])
        raise ValueError(
            f"{name}: checkpoint must hold names of the model ({next(iter(wanted))}, ...) or of the authors' "
            f"files; got {len(weights)} others ({first}, ...): another model's file?"
        )
    check_finite(weights, name)
    if theirs:
        weights = official.rename(weights)
    dense = any(k.startswith("out_norms.") for k in weights)
    weights = {k: v for k, v in weights.items() if not k.startswith("out_norms.")}
    if wrapped:
        weights = {k: v for k, v in weights.items() if k in wanted}
    fit = getattr(body, "fit_weights", None)  # tables that depend on the image size
    weights = fit(weights) if fit else weights
    # dense-prediction files have a norm a stage in the place of neck, last norm and classifier
    optional = ("head.", "neck.", "norm.") if dense else ("head.",)
    _check_names(name, weights, wanted, optional, getattr(body, "first_conv", "stem.conv0"))
    return {f"model.{k}": v for k, v in weights.items()} if wrapped else weights


def _check_names(
    name: str, weights: StateDict, wanted: StateDict, optional: tuple[str, ...], first_conv: str
) -> None:
    missing = [k for k in wanted if k not in weights and not k.startswith(optional)]
    if missing:
        raise ValueError(
            f"{name}: checkpoint must hold every tensor of the model, {len(missing)} of {len(wanted)} are "
            f"missing (first: {missing[0]}): truncated, or another size?"
        )
    extra = [k for k in weights if k not in wanted and not k.startswith("head.")]
    if extra:
        raise ValueError(
            f"{name}: checkpoint must hold only tensors of the model, got {len(extra)} others "
            f"(first: {extra[0]})"
        )
    for key, tensor in weights.items():
        adapted = key.startswith("head.") or key == f"{first_conv}.weight"
        if not adapted and tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{name}: {key} must have shape {tuple(wanted[key].shape)}, got {tuple(tensor.shape)}: "
                "another size?"
            )
