"""The facts of a swap as a table: per module parameters, bytes per token, FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .handle import LinearizedHandle

TEXT_TOKENS = {
    "FluxTransformer2DModel": 512,
    "SD3Transformer2DModel": 333,
}  # what the pipelines send by default


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One swapped attention.

    Args:
        parameters: that the swapped module holds.
        tokens: image tokens that it sees.
        bytes_per_token: alive at its peak beyond its input.
        flops, softmax_flops: of one image in the linear and in the replaced form; a multiply-add counts 2.
    """

    name: str
    was: str
    now: str
    parameters: int
    tokens: int
    bytes_per_token: float
    flops: float
    softmax_flops: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Rows and their sums; ``str(report)`` is the table."""

    method: str
    height: int
    width: int
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> float:
        return sum(row.flops for row in self.rows)

    @property
    def softmax_flops(self) -> float:
        return sum(row.softmax_flops for row in self.rows)

    def __str__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=6)
        head = f"{'module':<{wide}} {'parameters':>12} {'tokens':>9} {'B/token':>9}"
        head += f" {'GFLOPs':>10} {'softmax':>10}"
        lines = [
            f"{row.name:<{wide}} {row.parameters:>12,} {row.tokens:>9,} {row.bytes_per_token:>9,.0f} "
            f"{row.flops / 1e9:>10,.2f} {row.softmax_flops / 1e9:>10,.2f}"
            for row in self.rows
        ]
        total = (
            f"{'total':<{wide}} {self.parameters:>12,} {'':>9} {'':>9} {self.flops / 1e9:>10,.2f} "
            f"{self.softmax_flops / 1e9:>10,.2f}"
        )
        title = f"{self.method} at {self.height} x {self.width} px: {len(self.rows)} attentions, one image"
        return "\n".join((title, head, *lines, total))


def make_report(handle: LinearizedHandle, height: int | None, width: int | None, factor: int) -> Report:
    """Raises: ValueError for a size that is no whole number of latent positions."""
    model, method = handle.model, handle.method
    height, width = (native_size(model) * factor if side is None else side for side in (height, width))
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int) or side < factor or side % factor:
            raise ValueError(f"report: {name} must be a positive multiple of {factor} pixels, got {side!r}")
    text = TEXT_TOKENS.get(type(model).__name__, 0)
    rows = []
    for name, record in handle.swap.modules.items():
        module = record.module
        grid = method.grid(model, name, (height // factor, width // factor))
        cost = method.cost(model, name, module, grid, text)
        rows.append(
            Row(
                name=name,
                was=record.cls.__name__,
                now=type(module).__name__,
                parameters=sum(p.numel() for p in module.parameters()),
                tokens=grid[0] * grid[1],
                bytes_per_token=cost.values * element_size(module),
                flops=cost.flops,
                softmax_flops=cost.softmax_flops,
            )
        )
    return Report(method=method.name, height=height, width=width, rows=tuple(rows))


def native_size(model: nn.Module) -> int:
    """Latent side that the model was made for; 128 where its config does not say (FLUX: 1024 px)."""
    return int(getattr(model.config, "sample_size", None) or 128)


def element_size(module: nn.Module) -> int:
    return next(module.parameters()).element_size()
