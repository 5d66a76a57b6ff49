"""InLine checkpoints of all four forms: the authors' files to our names and back.

The form of a file is told by its names. PVT's ``q`` and ``kv`` are one ``qkv`` here; weights of the kernel
generators are [C, d] here and [C, d, 1] there; Swin's index and mask buffers are made in the forward here.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..weights import Official, StateDict, filter_checkpoint
from .window_attention import relative_index
from .windows import Windows, window_labels

_LOCAL = ((r"(^|\.)residual\.0\.", r"\1local.fc1."), (r"(^|\.)residual\.2\.", r"\1local.fc2."))
_LOCAL_BACK = ((r"(^|\.)local\.fc1\.", r"\1residual.0."), (r"(^|\.)local\.fc2\.", r"\1residual.2."))


def _renamed(name: str, *rules: tuple[str, str]) -> str:
    for pattern, into in rules:
        name = re.sub(pattern, into, name)
    return name


def _shift(number: str, by: int) -> str:
    return str(int(number) + by)


def _swin(name: str) -> str:
    if match := re.match(r"layers\.(\d+)\.downsample\.", name):  # closes a stage there, opens the next here
        return f"stages.{_shift(match[1], 1)}.downsample.{name[match.end() :]}"
    rules = ((r"^patch_embed\.proj\.", "stem.conv."), (r"^patch_embed\.norm\.", "stem.norm."))
    return _renamed(name, *rules, (r"^layers\.(\d+)\.", r"stages.\1."))


def _swin_back(name: str) -> str:
    if match := re.match(r"stages\.(\d+)\.downsample\.", name):
        return f"layers.{_shift(match[1], -1)}.downsample.{name[match.end() :]}"
    rules = ((r"^stem\.conv\.", "patch_embed.proj."), (r"^stem\.norm\.", "patch_embed.norm."))
    return _renamed(name, *rules, (r"^stages\.(\d+)\.", r"layers.\1."))


def _pvt(name: str) -> str:
    if match := re.match(r"pos_embed(\d)$", name):
        return f"stages.{_shift(match[1], -1)}.pos_embed"
    if match := re.match(r"block(\d)\.(\d+)\.", name):
        return f"stages.{_shift(match[1], -1)}.blocks.{match[2]}.{name[match.end() :]}"
    if match := re.match(r"patch_embed(\d)\.(proj|norm)\.", name):
        place = "stem" if match[1] == "1" else f"stages.{_shift(match[1], -1)}.downsample"
        return f"{place}.{'conv' if match[2] == 'proj' else 'norm'}.{name[match.end() :]}"
    return name


def _pvt_back(name: str) -> str:
    if match := re.match(r"stages\.(\d+)\.pos_embed$", name):
        return f"pos_embed{_shift(match[1], 1)}"
    if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
        return f"block{_shift(match[1], 1)}.{match[2]}.{name[match.end() :]}"
    if match := re.match(r"(?:stem|stages\.(\d+)\.downsample)\.(conv|norm)\.", name):
        number = _shift(match[1] or "0", 1)
        return f"patch_embed{number}.{'proj' if match[2] == 'conv' else 'norm'}.{name[match.end() :]}"
    return name


def _cswin(name: str) -> str:
    if match := re.match(r"stage(\d)\.(\d+)\.", name):
        return f"stages.{_shift(match[1], -1)}.blocks.{match[2]}.{name[match.end() :]}"
    rules = ((r"^stage1_conv_embed\.0\.", "stem.conv."), (r"^stage1_conv_embed\.2\.", "stem.norm."))
    return _renamed(name, *rules, (r"^merge(\d)\.", r"stages.\1.downsample."))


def _cswin_back(name: str) -> str:
    if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
        return f"stage{_shift(match[1], 1)}.{match[2]}.{name[match.end() :]}"
    rules = ((r"^stem\.conv\.", "stage1_conv_embed.0."), (r"^stem\.norm\.", "stage1_conv_embed.2."))
    return _renamed(name, *rules, (r"^stages\.(\d+)\.downsample\.", r"merge\1."))


# The name that tells a form, in the authors' files and in ours; DeiT's names are the same in both.
_FORMS = (
    (r"layers\.\d", _swin),
    (r"(?:pos_embed|patch_embed|block)\d", _pvt),
    (r"(?:stage\d\.\d|stage1_conv_embed\.|merge\d)", _cswin),
)
_FORMS_BACK = (
    (r"(?:cls_token|blocks)", lambda name: name),
    (r"stages\.\d+\.pos_embed", _pvt_back),
    (r"stages\.\d+\.blocks\.\d+\.attns\.", _cswin_back),
    (r"stages\.\d", _swin_back),
)


def from_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """The authors' names and shapes to ours. Unknown names pass unchanged; index and mask buffers go.

    Raises: ValueError for a ``q`` without its ``kv``, or the other way round.
    """
    rename = next((to for mark, to in _FORMS if any(re.match(mark, k) for k in state_dict)), lambda n: n)
    ours = {}
    for name, value in state_dict.items():
        if name.endswith((".relative_position_index", ".attn_mask")):
            continue
        if match := re.fullmatch(r"(.*\.|)(q|kv)\.(weight|bias)", name):
            front, part, kind = match.groups()
            other = f"{front}{'kv' if part == 'q' else 'q'}.{kind}"
            if other not in state_dict:
                raise ValueError(f"from_official: {name} must come with {other}, which is missing")
            if part == "kv":
                continue
            name, value = f"{front}qkv.{kind}", torch.cat((value, state_dict[other]))
        if value.ndim == 3 and re.search(r"(?:^|\.)residual\.[02]\.weight$", name):
            value = value.squeeze(-1)
        ours[rename(_renamed(name, *_LOCAL))] = value
    return ours


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Our names and shapes to the authors'; the inverse of ``from_official``.

    Swin's buffers are made again, the masks for the image size that the windows are published with: 32 pixels
    a token of a window.
    """
    rename = next((to for mark, to in _FORMS_BACK if any(re.match(mark, k) for k in state_dict)), None)
    theirs = {}
    for name, value in state_dict.items():
        if re.search(r"(?:^|\.)local\.fc[12]\.weight$", name):
            value = value.unsqueeze(-1)
        named = _renamed(rename(name) if rename else name, *_LOCAL_BACK)
        if rename is _pvt_back and (match := re.fullmatch(r"(.*\.)qkv\.(weight|bias)", named)):
            third = len(value) // 3
            theirs[f"{match[1]}q.{match[2]}"] = value[:third]
            theirs[f"{match[1]}kv.{match[2]}"] = value[third:]
            continue
        theirs[named] = value
        if named.endswith(".relative_position_bias_table"):
            theirs.update(_buffers(named.rpartition(".attn.")[0], value))
    return theirs


def _buffers(block: str, table: Tensor) -> StateDict:
    """What Swin keeps beside the bias table of ``layers.<stage>.blocks.<index>``."""
    window = (int(len(table) ** 0.5) + 1) // 2
    stage, index = (int(n) for n in re.findall(r"\d+", block))
    made = {f"{block}.attn.relative_position_index": relative_index((window, window), window, table.device)}
    side = window * 2 ** (3 - stage)
    if index % 2 and side > window:
        cut = Windows(1, (side, side), (window, window), (window // 2, window // 2))
        label = window_labels(cut, table.device)
        apart = label.unsqueeze(1) != label.unsqueeze(2)
        made[f"{block}.attn_mask"] = -100.0 * apart.to(table.dtype)
    return made


OFFICIAL = Official(
    marks=r"(?:^|\.)residual\.[02]\.|^(?:layers\.\d|pos_embed\d|block\d\.|stage\d\.\d|stage1_conv_embed\.)",
    rename=from_official,
)


def checkpoint_filter_fn(state_dict: Mapping, model: nn.Module) -> StateDict:
    """For timm: a checkpoint in the official format or ours, wrapped or not, to what ``model`` loads."""
    return filter_checkpoint(state_dict, model, OFFICIAL)
