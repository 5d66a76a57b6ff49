"""Inputs and options of every combination that ``linear_attn`` allows."""

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

FEATURES = ("identity", "elu1", "relu")
NORMS = ("sum", "clamp", "mag", "sub")
CU_SEQLENS = (0, 0, 5, 6, 6, 17)  # empty first and inner segments, one token, many


@dataclass(frozen=True, kw_only=True)
class Case:
    norm: str = "sum"
    feature: str = "elu1"
    rope: bool = False
    weight: bool = False
    mask: bool = False
    cu: tuple[int, ...] | None = None
    B: int = 2
    N: int = 17
    H: int = 2
    D: int = 4
    E: int = 3
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        flags = [name for name in ("rope", "weight", "mask", "cu") if getattr(self, name)]
        return "-".join([self.norm, self.feature, *flags])

    def inputs(self) -> dict[str, Tensor]:
        """The differentiable ones: q, k, v and where used weight, scale."""
        B = 1 if self.cu else self.B
        shape = (B, self.N, self.H)
        q, k, v = (torch.randn(*shape, d, dtype=torch.float64) for d in (self.D, self.D, self.E))
        if self.feature == "identity":
            q, k = q.abs() + 0.1, k.abs() + 0.1  # with signs z can be anything, 0 too
        tensors = {"q": q, "k": k, "v": v}
        if self.weight:
            tensors["weight"] = torch.rand(*shape, dtype=torch.float64) + 0.2
        tensors = {name: x.to(self.dtype) for name, x in tensors.items()}
        if self.norm == "clamp":
            tensors["scale"] = (torch.rand(self.H, dtype=torch.float64) + 0.5).to(self.dtype)
        return tensors

    def options(self) -> dict[str, object]:
        options: dict[str, object] = {"norm": self.norm, "feature": self.feature}
        table_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        if self.rope:  # not a rotation but any two tables: nothing may lean on cos^2 + sin^2 = 1
            options["rope"] = tuple(torch.randn(self.N, self.D, dtype=table_dtype) for _ in range(2))
        if self.mask:
            options["mask"] = torch.rand(1 if self.cu else self.B, self.N) > 0.3
        if self.cu:
            options["cu_seqlens"] = torch.tensor(self.cu, dtype=torch.int32)
        if self.norm == "clamp":
            options["cmin"] = 20.0 * self.D  # some z below, some above
        return options

    def oracle_options(self, options: dict[str, object]) -> dict[str, object]:
        """With the default scale written out."""
        return options | ({"scale": self.D**-0.5} if self.norm in ("mag", "sub") else {})


def every(**fixed: object) -> list[Case]:
    """All norms x features x rope x weight x mask x segments (weight only where it is allowed), once each."""
    combos = product(NORMS, FEATURES, (False, True), (False, True), (False, True), (None, CU_SEQLENS))
    cases = (
        replace(Case(norm=norm, feature=feature, rope=rope, weight=weight, mask=mask, cu=cu), **fixed)
        for norm, feature, rope, weight, mask, cu in combos
        if not (weight and norm in ("mag", "sub"))
    )
    return list(dict.fromkeys(cases))


def with_grad(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}


def gradients(y: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a sum with uneven signs, so that no term cancels or repeats."""
    probe = torch.arange(y.numel(), dtype=torch.float64).mul(0.7).sin().view_as(y).to(y.dtype)
    return dict(zip(tensors, torch.autograd.grad((y * probe).sum(), list(tensors.values())), strict=True))
