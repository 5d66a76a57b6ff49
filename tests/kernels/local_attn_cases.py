"""Inputs and options of every combination that ``local_attn`` allows, and attention by loops over pairs."""

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

WINDOWS = {
    "circle3.7": {"radius": 3.7},  # dy^2 + dx^2 <= 13: a circle whose edge is met, unlike 3 (a square)
    "circle2.5": {"radius": 2.5},
    "rectangle": {"window": (3, 7)},
    "square1": {"window": 1},
    "everything": {"radius": 1000},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    window: str = "circle3.7"
    grid: tuple[int, int] = (9, 11)
    n_global: int = 5
    global_first: bool = True
    extra: int = 0
    q_rows: tuple[int, int] | None = None
    without_globals: str = ""  # "q", "k" or "qk": left out in a partial run
    B: int = 2
    H: int = 2
    D: int = 4
    E: int = 3
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        order = "" if not self.n_global else "-first" if self.global_first else "-last"
        parts = [self.window, f"{self.grid[0]}x{self.grid[1]}", f"globals{self.n_global}{order}"]
        parts += [f"extra{self.extra}"] * bool(self.extra)
        parts += [f"rows{self.rows[0]}to{self.rows[1]}"] * (self.q_rows is not None)
        return "-".join(parts + [f"no{self.without_globals}globals"] * bool(self.without_globals))

    @property
    def rows(self) -> tuple[int, int]:
        return self.q_rows or (0, self.grid[0])

    @property
    def queries(self) -> int:
        image = (self.rows[1] - self.rows[0]) * self.grid[1]
        return image + (0 if "q" in self.without_globals else self.n_global)

    @property
    def keys(self) -> int:
        return self.grid[0] * self.grid[1] + (0 if "k" in self.without_globals else self.n_global)

    def inputs(self, size: float = 1.0) -> dict[str, Tensor]:
        """q, k, v and where used extra_k, extra_v."""
        shapes = {"q": (self.queries, self.D), "k": (self.keys, self.D), "v": (self.keys, self.E)}
        if self.extra:
            shapes |= {"extra_k": (self.extra, self.D), "extra_v": (self.extra, self.E)}
        tensors = {
            name: torch.randn(self.B, n, self.H, d, dtype=torch.float64) for name, (n, d) in shapes.items()
        }
        tensors["q"] *= size
        return {name: x.to(self.dtype) for name, x in tensors.items()}

    def options(self) -> dict[str, object]:
        options = {"grid": self.grid, "n_global": self.n_global, "global_first": self.global_first}
        return options | {"q_rows": self.q_rows} | WINDOWS[self.window]

    def sees(self) -> Tensor:
        """(queries, keys + extra) bool, pair by pair, from the words of the definition."""
        queries = self._tokens(range(*self.rows), "q" not in self.without_globals)
        keys = self._tokens(range(self.grid[0]), "k" not in self.without_globals)
        table = [[self._pair(i, j) for j in keys] + [i is not None] * self.extra for i in queries]
        return torch.tensor(table)

    def _tokens(self, rows: range, with_globals: bool) -> list[tuple[int, int] | None]:
        """The place of each token, None for global ones."""
        image = [(y, x) for y in rows for x in range(self.grid[1])]
        globals_ = [None] * (self.n_global if with_globals else 0)
        return globals_ + image if self.global_first else image + globals_

    def _pair(self, i: tuple[int, int] | None, j: tuple[int, int] | None) -> bool:
        if i is None or j is None:
            return True
        dy, dx = abs(i[0] - j[0]), abs(i[1] - j[1])
        words = WINDOWS[self.window]
        if "radius" in words:
            return dy * dy + dx * dx < words["radius"] ** 2
        height, width = words["window"] if isinstance(words["window"], tuple) else (words["window"],) * 2
        return 2 * dy < height and 2 * dx < width


def every(**fixed: object) -> list[Case]:
    """All windows x order of global tokens x extra keys x partial runs."""
    cases = []
    for window, (n, first), extra, rows in product(
        WINDOWS, ((0, True), (5, True), (5, False)), (0, 4), (None, (2, 7))
    ):
        case = Case(window=window, n_global=n, global_first=first, extra=extra, q_rows=rows)
        cases += [case]
        if rows and n and not extra:
            cases += [replace(case, without_globals=which) for which in ("q", "k", "qk")]
            cases += [replace(case, q_rows=(3, 3))]  # the global queries alone
    return list(dict.fromkeys(replace(case, **fixed) for case in cases))


def attention(case: Case, scale: float | None = None, **x: Tensor) -> tuple[Tensor, Tensor]:
    """(y, lse) in float64, one query at a time over the keys that it sees: no mask, no shared code."""
    x = {name: t.double() for name, t in x.items()}
    k, v = x["k"], x["v"]
    if case.extra:
        k, v = torch.cat((k, x["extra_k"]), 1), torch.cat((v, x["extra_v"]), 1)
    sees = case.sees()
    y, lse = [], []
    for i in range(case.queries):
        own = sees[i].nonzero().squeeze(1)
        scores = torch.einsum("bhd,bjhd->bjh", x["q"][:, i], k[:, own])
        scores = scores * (case.D**-0.5 if scale is None else scale)
        total = scores.exp().sum(1)
        y.append(torch.einsum("bjh,bjhe->bhe", scores.exp() / total.unsqueeze(1), v[:, own]))
        lse.append(total.log())
    return torch.stack(y, 1), torch.stack(lse, 1)


def run(case: Case, backend: str, scale: float | None = None, **x: Tensor) -> tuple[Tensor, Tensor]:
    from linzoo.kernels import local_attn

    extra = (x["extra_k"], x["extra_v"]) if case.extra else None
    return local_attn(x["q"], x["k"], x["v"], extra_kv=extra, scale=scale, backend=backend, **case.options())


def gradients(y: Tensor, lse: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a sum over y and lse with uneven signs, so that no term cancels or repeats."""
    loss = 0.0
    for part, pace in ((y, 0.7), (lse, 0.31)):
        probe = (
            torch.arange(part.numel(), dtype=torch.float64, device=part.device).mul(pace).sin().view_as(part)
        )
        loss = loss + (part.double() * probe).sum()
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


def with_grad(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
