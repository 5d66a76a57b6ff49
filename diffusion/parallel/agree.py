"""Ranks that were called with different things are told so, before their messages miss each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .link import Link, Sender

NEAR = 1e-3  # equal inputs may differ in their last digits between kinds of devices
WEIGHTS = (1.0, 0.7, 0.5, 0.3)


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
        allowed = NEAR * first.abs() + 1e-6 if name in near else 0.0
        same = ((values - first).abs() <= allowed) | (values.isnan() & first.isnan())
        if not bool(same.all()):
            shown = ", ".join(f"{value:.9g}" for value in values.tolist())
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
    near = {fact: x for name in values for fact, x in values_of(name, words[name]).items()}
    agree(link, exact, near, device)


def shape_facts(name: str, x: Tensor | None, rank: int) -> list[tuple[str, float]]:
    """Sizes of ``x``, ``rank`` of them, and the bytes of a number; -1 for what there is not."""
    sizes = [] if x is None else list(x.shape)[:rank]
    sizes += [-1] * (rank - len(sizes))
    facts = [(f"size {i} of {name}", float(size)) for i, size in enumerate(sizes)]
    return [*facts, (f"bytes a number of {name}", -1.0 if x is None else float(x.element_size()))]


def values_of(name: str, x: Tensor | float | None) -> dict[str, float]:
    """What tells other values apart: their mean size, and four of them in units of it. 0 for None."""
    facts = (f"the values of {name} (seed generators alike)", f"the size of {name}")
    if x is None:
        return dict.fromkeys(facts, 0.0)
    flat = torch.as_tensor(x).detach().flatten()
    flat = flat if flat.dtype == torch.float64 else flat.float()
    places = torch.linspace(0, flat.shape[0] - 1, len(WEIGHTS)).long()
    size = float(flat.abs().mean())
    picks = sum(w * value for w, value in zip(WEIGHTS, flat[places.to(flat.device)].tolist(), strict=True))
    unit = size if size > 0 else 1.0
    return dict(zip(facts, (picks / unit, size), strict=True))
