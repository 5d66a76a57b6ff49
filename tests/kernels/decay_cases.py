"""Inputs and options of every combination that ``decay_scan`` allows, and the same by N x N matrices."""

from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
from torch import Tensor

from linzoo.kernels import MaxState, decay_scan

KINDS = ("constant", "token", "channel")  # of log decays: (H,), (B, N, H), (B, N, H, D)
FORMS = ("plain", "bonus", "exclusive", "rwkv", "symmetric", "max")
CU_SEQLENS = (0, 0, 5, 6, 6, 17, 17)  # empty first, inner and last segments, one token, many
BLOCK = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    form: str = "plain"
    kind: str = "channel"
    reverse: bool = False
    initial: bool = False
    cu: tuple[int, ...] | None = None
    strength: float = 1.0  # log decays are uniform in -strength .. 0
    B: int = 2
    N: int = 17
    H: int = 2
    D: int = 4
    E: int = 3
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        flags = [name for name in ("reverse", "initial", "cu") if getattr(self, name)]
        return "-".join([self.form, self.kind, *flags])

    @property
    def states(self) -> int:
        return len(self.cu) - 1 if self.cu else self.B

    def inputs(self) -> dict[str, Tensor]:
        """The differentiable ones; S, n and m are the parts of ``initial``."""
        rows = 1 if self.cu else self.B
        tokens = (rows, self.N, self.H)
        q, k, v = (torch.randn(*tokens, d, dtype=torch.float64) for d in (self.D, self.D, self.E))
        x = {name: t.to(self.dtype) for name, t in zip("qkv", (q, k, v), strict=True)}
        acc = torch.float64 if self.dtype == torch.float64 else torch.float32
        shape = {"constant": (self.H,), "token": tokens, "channel": (*tokens, self.D)}[self.kind]
        x["log_decay"] = -self.strength * torch.rand(shape, dtype=acc)
        if self.form in ("bonus", "rwkv"):
            x["bonus"] = torch.randn(self.H, self.D, dtype=acc)
        if self.form == "max":
            x["input_gate"] = 2 * torch.randn(tokens, dtype=acc)
        if self.initial:
            x["S"] = torch.randn(self.states, self.H, self.D, self.E, dtype=acc)
            if self.form == "max":
                x["n"] = torch.randn(self.states, self.H, self.D, dtype=acc)
                x["m"] = torch.randn(self.states, self.H, dtype=acc)
        return x

    def options(self) -> dict[str, object]:
        options: dict[str, object] = {"reverse": self.reverse, "scale": 0.7}
        if self.cu:
            options["cu_seqlens"] = torch.tensor(self.cu, dtype=torch.int32)
        options |= {
            "exclusive": {"exclusive": True},
            "rwkv": {"exclusive": True},
            "symmetric": {"symmetric_block": BLOCK},
            "max": {"normalizer": "max"},
        }.get(self.form, {})
        return options


def every(**fixed: object) -> list[Case]:
    """All forms x kinds x directions x initial states x segments that are allowed, once each."""
    combos = product(FORMS, KINDS, (False, True), (False, True), (None, CU_SEQLENS))
    cases = (
        replace(Case(form=form, kind=kind, reverse=reverse, initial=initial, cu=cu), **fixed)
        for form, kind, reverse, initial, cu in combos
        if not (form == "symmetric" and kind != "constant") and not (form == "max" and kind == "channel")
    )
    return list(dict.fromkeys(cases))


def run(tensors: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """A call with ``initial`` put together; o and the parts of the state by name."""
    tensors = dict(tensors)
    parts = [tensors.pop(name) for name in ("S", "n", "m") if name in tensors]
    initial = MaxState(*parts) if len(parts) == 3 else parts[0] if parts else None
    o, state = decay_scan(**tensors, initial=initial, **options)
    if isinstance(state, MaxState):
        return {"o": o, "S": state.S, "n": state.n, "m": state.m}
    return {"o": o, "S": state}


def by_matrices(
    x: dict[str, Tensor],
    *,
    reverse: bool,
    scale: float,
    cu_seqlens: Tensor | None = None,
    symmetric_block: int | None = None,
    exclusive: bool = False,
    normalizer: str | None = None,
) -> dict[str, Tensor]:
    """Every token-to-token weight on its own, in float64: no recurrence, no shared code."""
    x = {name: t.double() for name, t in x.items()}
    rows, tokens, heads, width = x["q"].shape
    decay = x["log_decay"]
    decay = decay.unsqueeze(-1) if decay.dim() < 4 else decay
    decay = decay.expand(rows, tokens, heads, width)
    edges = [(b, 0, tokens) for b in range(rows)]
    if cu_seqlens is not None:
        ends = cu_seqlens.tolist()
        edges = [(0, a, b) for a, b in pairwise(ends)]
    o = torch.zeros_like(x["v"])
    states: list[tuple[Tensor, ...]] = []
    for r, (b, start, stop) in enumerate(edges):
        order = torch.arange(start, stop)
        order = order.flip(0) if reverse else order
        own = [t[b, order] for t in (x["q"] * scale, x["k"], x["v"], decay)]
        given = [x[name][r] for name in ("S", "n", "m") if name in x]
        if normalizer == "max":
            y, state = _mlstm(*own, x["input_gate"][b, order], given)
        else:
            y, state = _linear(*own, given, x.get("bonus"), exclusive, symmetric_block)
        o = o.index_put((torch.tensor(b), order), y)
        states.append(state)
    return {"o": o} | dict(zip("Snm", (torch.stack(s) for s in zip(*states, strict=True)), strict=False))


def _met(g: Tensor, exclusive: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of log decays g (T, H, D): between every two tokens (i, j, H, D), before each, and after each."""
    t = torch.arange(len(g))
    last = t - 1 if exclusive else t  # the last token whose decay a reader has met
    between = (t > t[:, None]).float()[None] * (t <= last[:, None])[:, None]  # (i, j, m): j < m <= last_i
    before, after = (t <= last[:, None]).double(), (t > t[:, None]).double()
    return (
        torch.einsum("ijm,mhd->ijhd", between.double(), g),
        torch.einsum("im,mhd->ihd", before, g),
        torch.einsum("jm,mhd->jhd", after, g),
    )


def _linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    given: list[Tensor],
    bonus: Tensor | None,
    exclusive: bool,
    block: int | None,
) -> tuple[Tensor, tuple[Tensor]]:
    t = torch.arange(len(q))
    between, before, after = _met(g, exclusive)
    seen = (t < t[:, None]).double()[:, :, None, None] * between.exp()
    own = 0 if exclusive else 1
    own = own if bonus is None else bonus
    seen = seen + torch.eye(len(t), dtype=torch.float64)[:, :, None, None] * own
    if block is not None:
        later = (t // block == (t // block)[:, None]) & (t > t[:, None])
        seen = seen + later.double()[:, :, None, None] * between.transpose(0, 1).exp()
    o = torch.einsum("ihd,jhd,ijhd,jhe->ihe", q, k, seen, v)
    S = torch.einsum("jhd,jhd,jhe->hde", k, after.exp(), v)
    if given:
        o = o + torch.einsum("ihd,ihd,hde->ihe", q, before.exp(), given[0])
        S = S + g.sum(0).exp().unsqueeze(-1) * given[0]
    return o, (S,)


def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, gate: Tensor, given: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The published parallel form, with the initial state as one more token; log weights (T, T + 1, H)."""
    heads, key_dim, value_dim = q.shape[1], k.shape[2], v.shape[2]
    nothing = [
        q.new_zeros(heads, key_dim, value_dim),
        q.new_zeros(heads, key_dim),
        q.new_full((heads,), -1e30),
    ]
    S, n, m = given or nothing
    if not len(q):
        return v, (S, n, m)
    t = torch.arange(len(q))
    between, before, _ = (x[..., 0] for x in _met(g, False))
    logs = (between + gate).masked_fill((t > t[:, None]).unsqueeze(-1), -torch.inf)
    logs = torch.cat([(before + m).unsqueeze(1), logs], 1)
    most = logs.max(1).values
    weights = (logs - most.unsqueeze(1)).exp()
    scores = torch.einsum("ihd,jhd->ijh", q, k) * weights[:, 1:]
    below = scores.sum(1) + torch.einsum("ihd,hd->ih", q, n) * weights[:, 0]
    above = torch.einsum("ijh,jhe->ihe", scores, v)
    above = above + torch.einsum("ihd,hde->ihe", q, S) * weights[:, 0, :, None]
    o = above / (torch.maximum(below.abs(), (-most).exp()) + 1e-6).unsqueeze(-1)
    last = weights[-1]  # of every token in the final state
    S = last[0, :, None, None] * S + torch.einsum("jh,jhd,jhe->hde", last[1:], k, v)
    n = last[0, :, None] * n + torch.einsum("jh,jhd->hd", last[1:], k)
    return o, (S, n, most[-1])


def loss(results: dict[str, Tensor]) -> Tensor:
    """Of everything that comes back, with uneven signs; a maximum of no tokens is left out."""
    total = 0
    for x in results.values():
        probe = torch.arange(x.numel(), dtype=torch.float64).mul(0.7).sin().view_as(x)
        total = total + (torch.where(x < -1e20, 0, x).double() * probe).sum()
    return total


def gradients(results: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(tensors, torch.autograd.grad(loss(results), list(tensors.values())), strict=True))
