"""Names of the authors' checkpoints of RAVLT, MALA and NaLaFormer, to ours and back.

The three share one layout: downsampling closes a stage there and opens the next one here, and 1x1s that are
convolutions there are Linear here. Channel order is the same.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layers.rope import frequencies

MARKS = r"^(patch_embed|layers)\."  # names that only the authors use


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialNames:
    """What a family calls the parts of a block, and which of its 1x1s are convolutions."""

    pos1: str
    pos2: str | None = None
    qkvg: str
    proj: str
    norm: str | None = None  # LayerNorm inside the mixer
    conv_1x1: bool  # False: Linear, save for the classifier, which is a convolution in all three

    def pairs(self) -> list[tuple[str, str]]:
        """(official, ours) beginnings of key names; ``#`` stands for a number kept as it is."""
        block = [
            (self.pos1, "pos1"),
            ("norm1.norm", "norm1"),
            ("norm2.norm", "norm2"),
            (f"attn.{self.qkvg}", "attn.qkvg"),
            ("attn.lepe", "attn.lepe"),
            (f"attn.{self.proj}", "attn.proj"),
            ("gamma_1", "ls1.gamma"),
            ("gamma_2", "ls2.gamma"),
            *((f"ffn.{part}", f"ffn.{part}") for part in ("fc1", "dwconv", "fc2")),
        ]
        if self.pos2:
            block.append((self.pos2, "pos2"))
        if self.norm:
            block.append((f"attn.{self.norm}", "attn.norm"))
        return [
            *((f"patch_embed.proj.{3 * i}", f"stem.conv{i}") for i in range(4)),
            *((f"patch_embed.proj.{3 * i + 1}", f"stem.norm{i}") for i in range(4)),
            *((f"layers.{i}.downsample.reduction", f"stages.{i + 1}.downsample.conv") for i in range(3)),
            *((f"layers.{i}.downsample.norm", f"stages.{i + 1}.downsample.norm") for i in range(3)),
            *((f"layers.#.blocks.#.{theirs}", f"stages.#.blocks.#.{ours}") for theirs, ours in block),
            ("extra_norms.#.norm", "out_norms.#"),  # dense-prediction files
            ("proj", "neck.proj"),
            ("norm", "neck.norm"),
            ("head", "head"),
        ]

    def was_conv(self, ours: str) -> bool:
        """Whether the official file holds this weight, a Linear here, as [O, I, 1, 1]."""
        inner = r"^(stages\.\d+\.blocks\.\d+\.(attn\.(qkvg|proj)|ffn\.fc[12])|neck\.proj)\.weight$"
        return ours == "head.weight" or (self.conv_1x1 and re.match(inner, ours) is not None)


def _renamer(pairs: Sequence[tuple[str, str]]) -> Callable[[str], str | None]:
    """A function that renames keys by (from, to) beginnings; None for a key that none of them fits."""
    rules = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\#", r"(\d+)")
        rules.append((re.compile(f"^{pattern}(?P<rest>\\..*)?$"), target.split("#")))

    def rename(key: str) -> str | None:
        for pattern, pieces in rules:
            if match := pattern.match(key):
                numbers = [*match.groups()[: len(pieces) - 1], match["rest"] or ""]
                return "".join(piece + number for piece, number in zip(pieces, numbers, strict=True))
        return None

    return rename


def from_official(state_dict: Mapping[str, Tensor], names: OfficialNames) -> dict[str, Tensor]:
    """Official names and shapes to ours; tensors are views of the given ones.

    The rotary tables ``layers.{i}.RoPE.angle`` are not kept: they are compared with ours, and a warning is
    given where they differ.
    Raises: ValueError for a key that no official file has.
    """
    rename = _renamer(names.pairs())
    out = {}
    for key, tensor in state_dict.items():
        if re.fullmatch(r"layers\.\d+\.RoPE\.angle", key):
            _compare_angle(key, tensor)
            continue
        ours = rename(key)
        if ours is None:
            raise ValueError(f"from_official: keys must be official names, got {key!r}")
        if ours.endswith(".gamma"):
            tensor = tensor.reshape(-1)
        elif names.was_conv(ours):
            if tensor.ndim not in (2, 4) or tensor.shape[2:].numel() != 1:
                raise ValueError(f"from_official: {key} must be [O, I, 1, 1], got {list(tensor.shape)}")
            tensor = tensor.flatten(1)
        out[ours] = tensor
    return out


def to_official(
    state_dict: Mapping[str, Tensor], names: OfficialNames, head_dims: Sequence[int]
) -> dict[str, Tensor]:
    """Our names and shapes to the official ones, rotary tables included.

    Args:
        state_dict: of one of our models.
        names: the family's.
        head_dims: channels of a head in each stage, for the rotary tables.
    Raises: ValueError for a key that none of our models has.
    """
    rename = _renamer([(ours, theirs) for theirs, ours in names.pairs()])
    out = {}
    for key, tensor in state_dict.items():
        theirs = rename(key)
        if theirs is None:
            raise ValueError(f"to_official: keys must be names of a linzoo model, got {key!r}")
        if key.endswith(".gamma"):
            tensor = tensor.reshape(1, -1, 1, 1)
        elif names.was_conv(key):
            tensor = tensor[:, :, None, None]
        out[theirs] = tensor
    for i, head_dim in enumerate(head_dims):
        out[f"layers.{i}.RoPE.angle"] = _angle(head_dim)
    return out


def _angle(head_dim: int) -> Tensor:
    """Every theta twice in a row, (head_dim / 2,): what the authors keep as a buffer."""
    return frequencies(head_dim).repeat_interleave(2)


def _compare_angle(key: str, tensor: Tensor) -> None:
    ours = _angle(2 * tensor.numel())
    if tensor.numel() % 2 or not torch.allclose(tensor.flatten().float(), ours, rtol=1e-3, atol=0):
        warnings.warn(
            f"{key} differs from the published rotary angles; it is ignored, and outputs will "
            "differ from those of the model that was trained with it",
            stacklevel=4,
        )
