"""What named modules of a model put out in one call, by forward hooks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Taps:
    """``with Taps(model, names) as taps: model(...)``, then ``taps.features``: name -> output with its graph.

    An output that is a tuple (image and text tokens) is joined along the tokens. The hooks live inside the
    block only, so recomputation by gradient checkpointing in the backward pass does not reach them.

    Raises: ValueError for a name that the model does not have.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        modules = dict(model.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise ValueError(
                f"names must be modules of {type(model).__name__}, it has no {', '.join(missing)}"
            )
        self.modules = {name: modules[name] for name in names}
        self.features: dict[str, Tensor] = {}
        self.hooks: list[Any] = []

    def __enter__(self) -> Taps:
        for name, module in self.modules.items():
            self.hooks.append(module.register_forward_hook(partial(self.keep, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.features[name] = torch.cat(output, dim=1) if isinstance(output, tuple) else output
