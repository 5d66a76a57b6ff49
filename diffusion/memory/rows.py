"""A denoiser that is called with a batch and works on one row of it at a time: CFG's two halves in turn.

Rows of a batch never mix in these models, so the result is the same; the peak is that of one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .forwards import Forward, wrap

FIRST = ("sample", "hidden_states")  # what the models call their first argument


def rows_in_turn(stack: ExitStack, model: nn.Module) -> None:
    wrap(stack, model, _in_turn)


def _in_turn(inner: Forward, *args: Any, **words: Any) -> Any:
    first = args[0] if args else next(words[name] for name in FIRST if name in words)
    rows = first.shape[0]
    if rows == 1:
        return inner(*args, **words)
    outputs, kind = [], None
    for row in range(1 if first.is_meta else rows):  # without numbers, one row shows the peak
        output = inner(*(row_of(a, row, rows) for a in args), **row_of(words, row, rows))
        kind = type(output)
        outputs.append(output[0])
        del output
    result = torch.cat([outputs[0]] * rows if first.is_meta else outputs)
    return (result,) if kind is tuple else kind(sample=result)


def row_of(value: Any, row: int, rows: int) -> Any:
    """Row ``row`` of every tensor that has ``rows`` of them, in lists, tuples and dicts too."""
    if isinstance(value, Tensor):
        return value[row : row + 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, Mapping):
        return {name: row_of(one, row, rows) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(row_of(one, row, rows) for one in value)
    return value
