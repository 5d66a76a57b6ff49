"""Layer names of LightNet's two public code bases, to ours and back.

No weights and no image model of the authors are published, so there is no file format to read. There are two
mixer layers with parameter names of their own: the author's two-dimensional mixer and the causal layer of
flash-linear-attention. A checkpoint with such names in its mixers loads; all else in it has our names.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..weights import Official, StateDict, filter_checkpoint

_AT = r"^(|.*\battn\.)"  # of a layer alone, or of a model
_RULES = (
    (_AT + r"qkv_proj\.", r"\1qkv."),  # the author's
    (_AT + r"output_gate\.", r"\1gate."),
    (_AT + r"out_proj\.", r"\1proj."),
    (_AT + r"g_proj\.", r"\1gate."),  # flash-linear-attention's
    (_AT + r"g_norm\.", r"\1norm."),
    (_AT + r"o_proj\.", r"\1proj."),
)
_BACK = (
    (r"^(|.*\battn\.)qkv\.", r"\1qkv_proj."),
    (r"^(|.*\battn\.)gate\.", r"\1output_gate."),
    (r"^(|.*\battn\.)proj\.", r"\1out_proj."),
)
_MARKS = _AT + r"(qkv_proj|output_gate|out_proj|[qkvgo]_proj|g_norm)\."


def from_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Either code base's layer names to ours; three projections q, k, v become one. Others pass unchanged.

    Raises: ValueError for a layer with some but not all of q_proj, k_proj, v_proj.
    """
    renamed = {}
    for name, value in state_dict.items():
        single = re.match(_AT + r"([qkv])_proj\.(.*)$", name)
        if single is None:
            renamed[_rename(name, _RULES)] = value
            continue
        at, _, part = single.groups()
        names = [f"{at}{letter}_proj.{part}" for letter in "qkv"]
        missing = [n for n in names if n not in state_dict]
        if missing:
            raise ValueError(f"from_official: {name} must come with {missing[0]}, got none")
        renamed[f"{at}qkv.{part}"] = torch.cat([state_dict[n] for n in names])
    return renamed


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Our names to the author's mixer's; the inverse of ``from_official`` on those."""
    return {_rename(name, _BACK): value for name, value in state_dict.items()}


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, into in rules:
        name = re.sub(pattern, into, name)
    return name


OFFICIAL = Official(marks=_MARKS, rename=from_official)


def checkpoint_filter_fn(state_dict: Mapping, model: nn.Module) -> StateDict:
    """For timm: a checkpoint with our names, or a public layer's in the mixers, to what ``model`` loads."""
    return filter_checkpoint(state_dict, model, OFFICIAL)
