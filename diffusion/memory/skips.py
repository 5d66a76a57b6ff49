"""A UNet's skip tensors away from its device between the down path that makes them and the up path.

From a GPU they go to the CPU's memory; on a CPU they go to temporary files. Each comes back when the up path
concatenates it, and is gone again after that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .forwards import Forward, wrap

DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
UP = ("CrossAttnUpBlock2D", "UpBlock2D")
PIECE = 1 << 28  # bytes


class Skip:
    """Stands for a skip tensor. Live until the next layer has taken it, then parked; a use brings it back."""

    def __init__(self, tensor: Tensor) -> None:
        self._live: Tensor | None = tensor
        self._parked: Any = None
        self.shape, self.ndim = tensor.shape, tensor.ndim
        self.dtype, self.device = tensor.dtype, tensor.device

    def take(self) -> Tensor:
        """For the next layer: the tensor itself, which is parked first and no longer held."""
        tensor = self._live
        if tensor is None:
            return self.fetch()
        self._parked, self._live = park(tensor), None
        return tensor

    def fetch(self) -> Tensor:
        if self._live is not None:
            return self._live
        if self.device.type == "meta":
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        if isinstance(self._parked, Tensor):
            return self._parked.to(self.device)
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self._parked.seek(0)
        for piece in pieces(tensor):
            self._parked.readinto(piece)
        return tensor

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple = (), words: dict | None = None
    ) -> Any:
        """Where the up path says ``torch.cat([hidden_states, skip])``."""
        return function(*(fetched(a) for a in args), **{k: fetched(v) for k, v in (words or {}).items()})

    def __add__(self, other: Any) -> Skip:
        """Residuals of a ControlNet or an adapter."""
        return Skip(self.fetch() + fetched(other))

    __radd__ = __add__

    def __getitem__(self, index: Any) -> Tensor:
        return self.fetch()[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.fetch(), name)


def park(tensor: Tensor) -> Any:
    if tensor.is_meta:
        return None
    if tensor.device.type != "cpu":
        return tensor.to("cpu")
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the skip
    for piece in pieces(tensor.contiguous()):
        file.write(piece)
    return file


def pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor, in pieces that one call to the system takes."""
    whole = memoryview(tensor.view(-1).view(torch.uint8).numpy())
    for start in range(0, len(whole), PIECE):
        yield whole[start : start + PIECE]


def fetched(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(fetched(one) for one in value)
    return value.fetch() if isinstance(value, Skip) else value


def why_not(model: nn.Module) -> str:
    """Why a model's skips cannot be parked; empty when they can."""
    blocks = [*getattr(model, "down_blocks", ()), *getattr(model, "up_blocks", ())]
    if not blocks or not hasattr(model, "conv_in"):
        return "no skip tensors"
    odd = [type(b).__name__ for b in blocks if type(b).__name__ not in DOWN + UP]
    return f"{odd[0]} is not known" if odd else ""


def park_skips(stack: ExitStack, model: nn.Module) -> None:
    """Everything that the down path keeps becomes a ``Skip``; the next layer takes the tensor out of it."""
    wrap(stack, model.conv_in, _offered)
    for block in model.down_blocks:
        attentions, downsamplers = getattr(block, "attentions", None), block.downsamplers or ()
        for module in (*block.resnets, *downsamplers):
            wrap(stack, module, _taken)
        for module in (*(attentions or block.resnets), *downsamplers):
            wrap(stack, module, _offered)
    if model.mid_block is not None:
        wrap(stack, model.mid_block.resnets[0], _taken)


def _taken(inner: Forward, hidden_states: Any, *args: Any, **words: Any) -> Any:
    return inner(hidden_states.take() if isinstance(hidden_states, Skip) else hidden_states, *args, **words)


def _offered(inner: Forward, *args: Any, **words: Any) -> Any:
    output = inner(*args, **words)
    return (Skip(output[0]), *output[1:]) if isinstance(output, tuple) else Skip(output)
