"""L2ViT checkpoints: the authors' files to our names and back."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..weights import Official, StateDict, filter_checkpoint

# The authors' key to ours. Every pattern is anchored, so that the longer name of the stem cannot match twice.
_RULES = (
    (r"^downsample_layers\.0\.proj\.proj\.0\.", "stem.conv0."),
    (r"^downsample_layers\.0\.proj\.proj\.1\.", "stem.norm0."),
    (r"^downsample_layers\.0\.proj\.proj\.3\.", "stem.conv1."),
    (r"^downsample_layers\.0\.proj\.proj\.4\.", "stem.norm1."),
    (r"^downsample_layers\.0\.norm\.", "stem.token_norm."),
    (r"^downsample_layers\.(\d+)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d+)\.proj\.", r"stages.\1.downsample.conv."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^(.*blocks\.\d+\.|)cpe\.0\.proj\.", r"\1pos1."),
    (r"^(.*blocks\.\d+\.|)cpe\.1\.proj\.", r"\1pos2."),
    (r"^(.*blocks\.\d+\.)norm3\.", r"\1norm_local."),  # at the top, norm3 is a dense-prediction file's
    (r"^(.*blocks\.\d+\.|)local_mp\.bn\.", r"\1lcm.norm."),
    (r"^(.*blocks\.\d+\.|)local_mp\.", r"\1lcm."),
    (r"^(.*blocks\.\d+\.|)mlp\.", r"\1ffn."),
    (r"^norm(\d)\.", r"out_norms.\1."),  # dense-prediction files: a norm for each stage
)
_BACK = (
    (r"^stem\.conv0\.", "downsample_layers.0.proj.proj.0."),
    (r"^stem\.norm0\.", "downsample_layers.0.proj.proj.1."),
    (r"^stem\.conv1\.", "downsample_layers.0.proj.proj.3."),
    (r"^stem\.norm1\.", "downsample_layers.0.proj.proj.4."),
    (r"^stem\.token_norm\.", "downsample_layers.0.norm."),
    (r"^stages\.(\d+)\.downsample\.norm\.", r"downsample_layers.\1.norm."),
    (r"^stages\.(\d+)\.downsample\.conv\.", r"downsample_layers.\1.proj."),
    (r"^(.*)\bpos1\.", r"\1cpe.0.proj."),
    (r"^(.*)\bpos2\.", r"\1cpe.1.proj."),
    (r"^(.*)\bnorm_local\.", r"\1norm3."),
    (r"^(.*)\blcm\.norm\.", r"\1local_mp.bn."),
    (r"^(.*)\blcm\.", r"\1local_mp."),
    (r"^(.*)\bffn\.", r"\1mlp."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"^out_norms\.(\d)\.", r"norm\1."),
)


def from_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """The authors' names to ours; temperatures [heads, 1, 1] become [heads]. Unknown names pass unchanged."""
    return {
        name: value.flatten() if name.endswith("temperature") else value
        for name, value in _rename(state_dict, _RULES).items()
    }


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Our names to the authors'; the inverse of ``from_official``."""
    return {
        name: value.reshape(-1, 1, 1) if name.endswith("temperature") else value
        for name, value in _rename(state_dict, _BACK).items()
    }


def _rename(state_dict: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> StateDict:
    renamed = {}
    for name, value in state_dict.items():
        for pattern, into in rules:
            name = re.sub(pattern, into, name)
        renamed[name] = value
    return renamed


OFFICIAL = Official(marks=r"^downsample_layers\.", rename=from_official)


def checkpoint_filter_fn(state_dict: Mapping, model: nn.Module) -> StateDict:
    """For timm: a checkpoint in the official format or ours, wrapped or not, to what ``model`` loads."""
    return filter_checkpoint(state_dict, model, OFFICIAL)
