"""Which input cell meets which output cell under each cell of a convolution's kernel: the pair lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .geometry import Triple
from .tables import table_of


@dataclass(frozen=True, kw_only=True)
class ConvPairs:
    """Pairs (input row, output row) of a sparse convolution, kernel cell by kernel cell.

    inputs, outputs: (P,) int64 rows.  offsets: (K + 1,) int64 on the CPU: pairs offsets[k] .. offsets[k + 1]
    belong to kernel cell k, where cells are counted in (z, y, x) order and output rows rise within a cell.
    n_in, n_out: rows of the input and of the output.  kernel_size: (kz, ky, kx).
    identity: the kernel cell that pairs every row with itself, -1 if there is none.
    ``cache`` holds what is made of the pairs alone.
    """

    inputs: Tensor
    outputs: Tensor
    offsets: Tensor
    n_in: int
    n_out: int
    kernel_size: Triple
    identity: int = -1
    cache: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.inputs)

    def table(self) -> Tensor:
        """(K + 1, n_out) int32 of ``table_of``, on the pairs' device; made once."""
        return self._kept("table", lambda: self._table(self.inputs, self.outputs, self.n_out))

    def transposed_table(self) -> Tensor:
        """The same with inputs and outputs exchanged, (K + 1, n_in): what the gradient of the input reads."""
        return self._kept("transposed_table", lambda: self._table(self.outputs, self.inputs, self.n_in))

    def device_offsets(self) -> Tensor:
        """offsets as int32 on the pairs' device."""
        return self._kept("offsets", lambda: self.offsets.to(self.inputs.device, torch.int32))

    def _table(self, inputs: Tensor, outputs: Tensor, n_out: int) -> Tensor:
        return table_of(inputs, outputs, self.offsets.to(inputs.device), n_out)

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling():  # a traced tensor must not outlive its trace
            return self.cache[name] if name in self.cache else make()
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]


def joined(
    inputs: list[Tensor], outputs: list[Tensor], n_in: int, n_out: int, kernel: Triple, identity: int
) -> ConvPairs:
    """The lists of all kernel cells as one."""
    counts = torch.tensor([0, *(len(own) for own in inputs)])
    return ConvPairs(
        inputs=torch.cat(inputs),
        outputs=torch.cat(outputs),
        offsets=counts.cumsum(0),
        n_in=n_in,
        n_out=n_out,
        kernel_size=kernel,
        identity=identity,
    )
