"""Reading checkpoints: unwrapping, refusing what cannot be one, and timm's filter for official files."""

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")

OFFICIAL = ("patch_embed.", "layers.", "downsample_layers.")  # how names begin that only the authors use

StateDict = dict[str, Tensor]


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


def check_tensors(state_dict: Mapping[str, Tensor], known: tuple[str, ...], model_name: str) -> None:
    """Refuses weights of another model and weights that are not finite.

    Args:
        state_dict: names to tensors.
        known: beginnings of key names, official and ours, of which at least one must occur.
        model_name: for the message.
    Raises: ValueError.
    """
    if not any(key.startswith(known) for key in state_dict):
        first = ", ".join(list(state_dict)[:3])
        raise ValueError(
            f"{model_name}: checkpoint must hold keys that begin with {', '.join(known)}; "
            f"got {len(state_dict)} others ({first}, ...): another model's file?"
        )
    filled = {k: v for k, v in state_dict.items() if v.is_floating_point() and not v.is_meta}
    bad = [k for k, v in filled.items() if not v.isfinite().all()]
    if bad:
        raise ValueError(
            f"{model_name}: checkpoint must be finite, got NaN or Inf in {len(bad)} of {len(state_dict)} "
            f"tensors (first: {bad[0]})"
        )


def rename_official(
    state_dict: dict[str, Tensor],
    prefix: str,
    from_official: Callable[[StateDict], StateDict],
    model_name: str,
) -> None:
    """In place: the authors' names behind ``prefix`` to ours; a state dict without any is left alone.

    Raises: ValueError for names that no official file has and, only where names are changed, NaN or Inf.
    """
    if not any(key.startswith(tuple(prefix + start for start in OFFICIAL)) for key in state_dict):
        return
    weights = {k[len(prefix) :]: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
    check_tensors(weights, OFFICIAL, model_name)
    for key, tensor in from_official(weights).items():
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


def filter_checkpoint(
    state_dict: Mapping,
    model: nn.Module,
    *,
    official: tuple[str, ...],
    from_official: Callable[[StateDict], StateDict],
) -> StateDict:
    """What a family's ``checkpoint_filter_fn`` does: authors' names or ours in, names of ``model`` out.

    Args:
        state_dict: a checkpoint, wrapped or not.
        model: the model to load into, or timm's features_only wrapper around it.
        official: beginnings of key names that mark an official file.
        from_official: maps official names to ours.
    Returns: a state dict for ``model.load_state_dict``; ``stem.conv0`` and ``head`` may differ in shape from
        the model's, as timm adapts them.
    Raises: ValueError for another model's file, non-finite tensors, and missing or additional tensors.
    """
    name = type(model).__name__
    weights = unwrap(state_dict)
    check_tensors(weights, (*official, "stem.", "stages."), name)
    if any(k.startswith(official) for k in weights):
        weights = from_official(weights)
    dense = any(k.startswith("out_norms.") for k in weights)
    weights = {k: v for k, v in weights.items() if not k.startswith("out_norms.")}

    inner = getattr(model, "model", None)  # timm's FeatureGetterNet holds the pruned backbone here
    wrapped = isinstance(inner, nn.Module) and not hasattr(model, "stages")
    wanted = (inner if wrapped else model).state_dict()
    if wrapped:
        weights = {k: v for k, v in weights.items() if k in wanted}
    optional = ("head.", "neck.", "norm.") if dense else ("head.",)  # dense files have a norm a stage instead
    _check_names(name, weights, wanted, optional)
    return {f"model.{k}": v for k, v in weights.items()} if wrapped else weights


def _check_names(name: str, weights: StateDict, wanted: StateDict, optional: tuple[str, ...]) -> None:
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
        adapted = key.startswith("head.") or key == "stem.conv0.weight"
        if not adapted and tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{name}: {key} must have shape {tuple(wanted[key].shape)}, got {tuple(tensor.shape)}: "
                "another size?"
            )
