"""The feature extractor within a detection backbone: any timm model by name, as ``features_only``."""

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches

import timm
import torch
from timm.models import FeatureListNet
from torch import nn

from .. import FAMILIES  # importing it registers our models


def check_model_name(name: object) -> str:
    """``name`` when timm's registry, ours included, has it (or a timm source such as ``local-dir:``).

    Raises: ValueError with the nearest names, ours before timm's.
    """
    if isinstance(name, str) and (":" in name or timm.is_model(name.partition(".")[0])):
        return name
    ours = [known for family in FAMILIES for known in timm.list_models(module=family)]
    base = str(name).partition(".")[0].lower()
    near = get_close_matches(base, ours) or get_close_matches(base, timm.list_models())
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"LinzooBackbone: model_name must be a name known to timm or linzoo, got {name!r}{hint}")


def family_of(name: str) -> str | None:
    """The family of ours that registers ``name``; None for timm's own models."""
    base = name.partition(".")[0]
    return next((family for family in FAMILIES if base in timm.list_models(module=family)), None)


def make_body(
    name: str, out_indices: Sequence[int] | None, own_arguments: Sequence[str], **kwargs
) -> nn.Module:
    """timm's ``features_only`` model; None as ``out_indices`` takes the model's own.

    Args:
        own_arguments: names that the caller has beside the model's, for the error.
        kwargs: of the model.
    Raises: TypeError for an argument that the model does not have, naming the nearest; ValueError for stages
        that it does not have, and for a model without features.
    """
    if out_indices is not None:
        kwargs["out_indices"] = tuple(out_indices)
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except TypeError as error:
        raise _explained(error, name, own_arguments) from error
    except (AssertionError, IndexError) as error:  # timm's, for a stage that is not there
        if out_indices is None:
            raise
        count = _count_stages(name)
        raise ValueError(
            f"LinzooBackbone: out_indices must be among the {count} stages of {name}, "
            f"got {tuple(out_indices)}"
        ) from error
    except RuntimeError as error:
        if "features_only" not in str(error):
            raise
        raise ValueError(
            f"LinzooBackbone: model_name must be a model with features, {name}: {error}"
        ) from error


def _explained(error: TypeError, name: str, own_arguments: Sequence[str]) -> TypeError:
    """``error``, or one that names the nearest argument when an unknown one caused it."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match is None:
        return error
    with torch.device("meta"):
        known = inspect.signature(type(timm.create_model(name))).parameters
    known = [*own_arguments, *(k for k, p in known.items() if p.kind is not p.VAR_KEYWORD)]
    near = get_close_matches(match[1], known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    return TypeError(f"LinzooBackbone: {name} has no argument {match[1]!r}; {hint}")


def _count_stages(name: str) -> int:
    with torch.device("meta"):
        return len(timm.create_model(name).feature_info)


def inner(body: nn.Module) -> nn.Module:
    """The model within timm's getter, or timm's list of modules itself."""
    return body if isinstance(body, FeatureListNet) else getattr(body, "model", body)
