"""LiT's options. Which of them the paper settles, and which are our choice, stands in README.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..method import make_options

QKV = ("to_q", "to_k", "to_v")
INHERIT = {"none": (), "v": ("to_v",), "qkv": QKV, "all": (*QKV, "to_out")}
CHOICES = {
    "conv_on": ("v", "x"),
    "conv_init": ("zero", "random"),
    "eps_on": ("sum", "mean"),
    "inherit": tuple(INHERIT),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LitOptions:
    """How a self-attention becomes LiT's.

    Args:
        heads: of the linear attention; must divide the width. Without it a quarter of the model's, see
            ``default_heads``.
        kernel_size: odd, of the depthwise convolution; None or 0: no convolution.
        conv_on: what it reads: "v" the values, "x" the input of the attention.
        conv_init: "zero": it adds nothing at first; "random": torch's own.
        eps: > 0, in the denominator.
        eps_on: "sum": added to the sum over keys; "mean": to the mean over keys, and to phi.
        inherit: attention weights that start as the model's own: "none", "v", "qkv" or "all" (qkv and the
            output projection). The others start at random, everything outside the attention stays.
    """

    heads: int
    kernel_size: int | None = 5
    conv_on: str = "v"
    conv_init: str = "zero"
    eps: float = 1e-6
    eps_on: str = "sum"
    inherit: str = "none"

    def __post_init__(self) -> None:
        if type(self.heads) is not int:
            raise TypeError(f"heads must be an int, got {self.heads!r}")
        if self.heads < 1:
            raise ValueError(f"heads must be >= 1, got {self.heads}")
        size = 0 if self.kernel_size is None else self.kernel_size
        if type(size) is not int:
            raise TypeError(f"kernel_size must be an odd int, or None for no convolution, got {size!r}")
        if size < 0 or (size and size % 2 == 0):
            raise ValueError(f"kernel_size must be odd, or None for no convolution, got {size}")
        object.__setattr__(self, "kernel_size", size or None)
        if type(self.eps) not in (int, float):
            raise TypeError(f"eps must be a number, got {self.eps!r}")
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"eps must be > 0, got {self.eps}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")


def lit_options(model: nn.Module, words: Mapping[str, Any]) -> LitOptions:
    """Options for ``model``. Raises: ValueError, TypeError that name the word."""
    words = dict(words)
    if words.get("heads") is None:
        words["heads"] = default_heads(model)
    options = make_options(LitOptions, "lit", words)
    if model.inner_dim % options.heads:
        raise ValueError(f"heads must divide the width {model.inner_dim}, got {options.heads}")
    return options


def default_heads(model: nn.Module) -> int:
    """A quarter of the model's heads, rounded up; fewer where that does not divide the width.

    These are the paper's 2, 3, 4 and 4 for S/2, B/2, L/2, XL/2 (6, 12, 16, 16 in DiT), and 4 for PixArt.
    """
    heads = -(-model.config.num_attention_heads // 4)
    while model.inner_dim % heads:
        heads -= 1
    return heads
