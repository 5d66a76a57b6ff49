"""A model's copy without numbers: the same modules and classes, every tensor on the meta device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HOOKS = ("_hf_hook", "_old_forward", "_diffusers_hook", "forward")  # what offloading puts on modules


def skeleton(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """``copy.deepcopy`` that copies no numbers, in ``dtype`` where given; offload hooks stay behind."""
    with EmptyCopies(), torch.no_grad():
        made = copy.deepcopy(model)
    for module in made.modules():
        for name in HOOKS:
            module.__dict__.pop(name, None)
    return (made if dtype is None else nn.Module.to(made, dtype)).eval()


class EmptyCopies(TorchFunctionMode):
    """Inside, copies of tensors are empty and on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.__deepcopy__, Tensor.clone):
            tensor = args[0]
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return func(*args, **(kwargs or {}))


def weight_bytes(model: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers, floating-point ones in ``dtype`` where given."""

    def size(x: Tensor) -> int:
        cast = dtype is not None and x.is_floating_point()
        return x.numel() * (dtype.itemsize if cast else x.element_size())

    return sum(size(x) for x in (*model.parameters(), *model.buffers()))
