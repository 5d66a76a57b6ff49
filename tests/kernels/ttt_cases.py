"""Inputs of ``ttt_scan``, and the same by gradient descent that autograd takes, without its formula."""

from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from linzoo.kernels import ttt_scan

CU_SEQLENS = (0, 0, 5, 6, 6, 17, 17)  # empty first, inner and last segments, one token, many
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    size: int = 4
    states: bool = False  # W0 and b0 for every row or segment
    cu: tuple[int, ...] | None = None
    B: int = 2
    N: int = 17
    H: int = 2
    D: int = 4
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        return f"size{self.size}" + "-states" * self.states + "-cu" * (self.cu is not None)

    def inputs(self) -> dict[str, Tensor]:
        """By name; q, k and v in ``dtype``, the rest in what sums are kept in."""
        rows, sequences = (1, len(self.cu) - 1) if self.cu else (self.B, self.B)
        acc = torch.float64 if self.dtype == torch.float64 else torch.float32
        x = {name: torch.randn(rows, self.N, self.H, self.D).to(self.dtype) for name in "qkv"}
        lead = (sequences,) if self.states else ()
        heads = (self.H, self.D)
        x |= {
            "rate": torch.rand(rows, self.N, self.H) / self.D,
            "position_rate": 1 / torch.arange(1, self.size + 1) + 0.1 * torch.rand(self.size),
            "W0": 0.3 * torch.randn(*lead, *heads, self.D),
            "b0": 0.3 * torch.randn(*lead, *heads),
            "gamma": 1 + 0.2 * torch.randn(heads),
            "beta": 0.2 * torch.randn(heads),
        }
        return {name: t if name in "qkv" else t.to(acc) for name, t in x.items()}

    def options(self) -> dict[str, object]:
        options: dict[str, object] = {"size": self.size}
        if self.cu:
            options["cu_seqlens"] = torch.tensor(self.cu, dtype=torch.int32)
        return options


def every(**fixed: object) -> list[Case]:
    """Mini-batches that divide N and that do not, shared and own states, rows and segments."""
    combos = product((1, 4, 17, 40), (None, CU_SEQLENS))
    return [Case(size=size, states=size in (4, 40), cu=cu, **fixed) for size, cu in combos]


def run(tensors: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    o, (W, b) = ttt_scan(**tensors, **options)
    return {"o": o, "W": W, "b": b}


def by_descent(x: dict[str, Tensor], *, size: int, cu_seqlens: Tensor | None = None) -> dict[str, Tensor]:
    """Weights of every token of their own, W_i = W - sum_{j <= i} e_ij dl_j/dW, in float64."""
    x = {name: t.double() for name, t in x.items()}
    edges = [(b, 0, x["q"].shape[1]) for b in range(len(x["q"]))]
    if cu_seqlens is not None:
        edges = [(0, start, stop) for start, stop in pairwise(cu_seqlens.tolist())]
    rows: list[list[Tensor]] = [[] for _ in x["q"]]
    finals = []
    for r, (row, start, stop) in enumerate(edges):
        W = x["W0"] if x["W0"].dim() == 3 else x["W0"][r]
        b = x["b0"] if x["b0"].dim() == 2 else x["b0"][r]
        for first in range(start, stop, size):
            tokens = range(first, min(first + size, stop))
            steps = [_loss_gradients(x, row, j, W, b) for j in tokens]
            for i, own in enumerate(tokens):
                rates = [x["position_rate"][i] * x["rate"][row, j] for j in tokens[: i + 1]]
                pairs = list(zip(rates, steps, strict=False))
                W_i = W - sum(e[:, None, None] * dW for e, (dW, _) in pairs)
                b_i = b - sum(e[:, None] * db for e, (_, db) in pairs)
                q = x["q"][row, own]
                rows[row].append(q + _norm(x, torch.einsum("hd,hde->he", q, W_i) + b_i))
            W, b = W_i, b_i
        finals.append((W, b))
    W, b = (torch.stack(t) for t in zip(*finals, strict=True))
    return {"o": torch.stack([torch.stack(row) for row in rows]), "W": W, "b": b}


def _norm(x: dict[str, Tensor], z: Tensor) -> Tensor:
    return x["gamma"] * torch.nn.functional.layer_norm(z, z.shape[-1:], eps=EPS) + x["beta"]


def _loss_gradients(x: dict[str, Tensor], row: int, j: int, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Of 1/2 |LN(k_j W + b) - (v_j - k_j)|^2 by W and b; differentiable again."""
    with torch.enable_grad():
        if not W.requires_grad:
            W, b = W.detach().requires_grad_(), b.detach().requires_grad_()
        k, v = x["k"][row, j], x["v"][row, j]
        error = _norm(x, torch.einsum("hd,hde->he", k, W) + b) - (v - k)
        return torch.autograd.grad(error.square().sum() / 2, (W, b), create_graph=True)


def loss(results: dict[str, Tensor]) -> Tensor:
    """Of everything that comes back, with uneven signs."""
    total = 0
    for x in results.values():
        probe = torch.arange(x.numel(), dtype=torch.float64).mul(0.7).sin().view_as(x)
        total = total + (x.double() * probe).sum()
    return total


def gradients(results: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(tensors, torch.autograd.grad(loss(results), list(tensors.values())), strict=True))
