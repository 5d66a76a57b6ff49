"""Inputs and options of all that ``selective_scan`` allows, and the same by sums over pairs of tokens."""

from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
from torch import Tensor

from linzoo.kernels import selective_scan

CU_SEQLENS = (0, 0, 5, 6, 6, 17, 17)  # empty first, inner and last segments, one token, many
INPUTS = ("u", "delta", "A", "B", "C", "D")


@dataclass(frozen=True, kw_only=True)
class Case:
    reverse: bool = False
    initial: bool = False
    skip: bool = True  # D is given
    cu: tuple[int, ...] | None = None
    strength: float = 1.0  # A is uniform in -strength .. 0
    rows: int = 2
    N: int = 17
    C: int = 3
    S: int = 4
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        flags = [name for name in ("reverse", "initial", "skip", "cu") if getattr(self, name)]
        return "-".join(flags) or "plain"

    @property
    def states(self) -> int:
        return len(self.cu) - 1 if self.cu else self.rows

    def inputs(self) -> dict[str, Tensor]:
        """The differentiable ones. B and C are halves of one tensor, as a projection makes them."""
        acc = torch.float64 if self.dtype == torch.float64 else torch.float32
        tokens = (1 if self.cu else self.rows, self.N)
        B, C = torch.randn(*tokens, 2 * self.S, dtype=torch.float64).to(self.dtype).split(self.S, -1)
        x = {"u": torch.randn(*tokens, self.C, dtype=torch.float64).to(self.dtype)}
        x["delta"] = torch.rand(*tokens, self.C, dtype=acc)
        x["A"] = -self.strength * torch.rand(self.C, self.S, dtype=acc)
        x |= {"B": B, "C": C}
        if self.skip:
            x["D"] = torch.randn(self.C, dtype=acc)
        if self.initial:
            x["initial"] = torch.randn(self.states, self.C, self.S, dtype=acc)
        return x

    def options(self) -> dict[str, object]:
        cu = None if self.cu is None else torch.tensor(self.cu, dtype=torch.int32)
        return {"reverse": self.reverse, "cu_seqlens": cu}


def every(**fixed: object) -> list[Case]:
    """All directions x initial states x D x rows or segments."""
    flags = product((False, True), (False, True), (False, True), (None, CU_SEQLENS))
    return [replace(Case(reverse=r, initial=i, skip=s, cu=cu), **fixed) for r, i, s, cu in flags]


def run(case: Case, tensors: dict[str, Tensor], backend: str = "eager") -> dict[str, Tensor]:
    y, state = selective_scan(**tensors, **case.options(), backend=backend)
    return {"y": y, "state": state}


def by_pairs(case: Case, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every token gets from every earlier one and from the initial state, in float64: no recurrence."""
    x = {name: t.double() for name, t in x.items()}
    rows = x["u"].shape[0]
    edges = [(0, a, b) for a, b in pairwise(case.cu)] if case.cu else [(b, 0, case.N) for b in range(rows)]
    y = torch.zeros_like(x["u"])
    states = []
    for r, (b, start, stop) in enumerate(edges):
        order = torch.arange(start, stop)
        order = order.flip(0) if case.reverse else order
        u, delta, B, C = (x[name][b, order] for name in ("u", "delta", "B", "C"))
        time = torch.cat((delta.new_zeros(1, case.C), delta.cumsum(0)))  # (T + 1, C): 0 is before the first
        later = torch.ones(len(order) + 1, len(order), dtype=torch.bool).tril(-1)  # token j is before time i
        between = (time.unsqueeze(1) - time[1:]).where(later.unsqueeze(-1), 0)  # (T + 1, T, C)
        weights = (between.unsqueeze(-1) * x["A"]).exp() * later[:, :, None, None]
        h = torch.einsum("ijcs,jc,js->ics", weights, delta * u, B)
        if case.initial:
            h = h + (time.unsqueeze(-1) * x["A"]).exp() * x["initial"][r]
        own = torch.einsum("ics,is->ic", h[1:], C)
        own = own + x["D"] * u if case.skip else own
        y = y.index_put((torch.tensor(b), order), own)
        states.append(h[-1])
    return {"y": y, "state": torch.stack(states)}


def loss(results: dict[str, Tensor]) -> Tensor:
    """Of y and the state, with uneven signs."""
    total = 0
    for x in results.values():
        probe = torch.arange(x.numel(), dtype=torch.float64, device=x.device).mul(0.7).sin().view_as(x)
        total = total + (x.double() * probe).sum()
    return total


def gradients(results: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(tensors, torch.autograd.grad(loss(results), list(tensors.values())), strict=True))


def with_grad(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves that lie in memory as the given ones do."""
    return {name: x.detach().requires_grad_() for name, x in tensors.items()}
