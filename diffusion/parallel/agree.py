"""Ranks that were called with different things are told so, before their messages miss each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .link import Link, Sender

NEAR = 1e-3  # checksums of equal inputs may differ in their last digits between kinds of devices


def agree(link: Link, exact: Mapping[str, float], near: Mapping[str, float], device: torch.device) -> None:
    """One small message; every rank calls this with the same names in the same order.

    Raises: ValueError, on every rank, naming the first fact in which ranks differ and what each has.
    """
    facts = {**exact, **near}
    if dist.get_backend(link.group) == "nccl":  # whose messages live on the GPU, wherever the weights wait
        device = torch.device("cuda")
    mine = torch.tensor([float(x) for x in facts.values()], dtype=torch.float64, device=device)
    table = torch.stack(link.gather(mine, Sender("", "check"))).cpu()
    for column, name in enumerate(facts):
        values = table[:, column]
        first = values[0]
        allowed = NEAR * first.abs() if name in near else 0.0
        same = ((values - first).abs() <= allowed) | (values.isnan() & first.isnan())
        if not bool(same.all()):
            shown = ", ".join(f"{value:g}" for value in values.tolist())
            raise ValueError(
                f"parallelize: {name} must be the same on every rank, got {shown} on ranks 0 to "
                f"{link.world - 1}"
            )


def agree_on(
    link: Link,
    words: Mapping[str, Any],
    shapes: Mapping[str, int],
    values: Sequence[str],
    device: torch.device,
) -> None:
    """``agree`` on a call's arguments: sizes of ``shapes`` (name -> dimensions), sums of ``values``."""
    exact = {fact: x for name, rank in shapes.items() for fact, x in shape_facts(name, words[name], rank)}
    near = {f"the values of {name} (seed generators alike)": checksum(words[name]) for name in values}
    agree(link, exact, near, device)


def shape_facts(name: str, x: Tensor | None, rank: int) -> list[tuple[str, float]]:
    """Sizes of ``x``, ``rank`` of them, and the bytes of a number; -1 for what there is not."""
    sizes = [] if x is None else list(x.shape)[:rank]
    sizes += [-1] * (rank - len(sizes))
    facts = [(f"size {i} of {name}", float(size)) for i, size in enumerate(sizes)]
    return [*facts, (f"bytes a number of {name}", -1.0 if x is None else float(x.element_size()))]


def checksum(x: Tensor | float | None) -> float:
    """The mean size of the numbers of ``x`` in two halves, of which the second weighs more; 0 for None."""
    if x is None:
        return 0.0
    flat = torch.as_tensor(x).detach().flatten().abs()
    half = flat.shape[0] // 2
    dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
    first = float(flat[:half].mean(dtype=dtype)) if half else 0.0
    return float(flat[half:].mean(dtype=dtype)) + first / 2
