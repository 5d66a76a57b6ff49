"""Small grids with some cells occupied, and the same convolutions as dense ones in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv3d

from linzoo.kernels import ConvPairs, strided_pairs, submanifold_pairs

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch of grids and a convolution over it; ``stride`` None is a submanifold one."""

    shape: Triple = (4, 5, 6)
    batch: int = 2
    kernel: Triple = (3, 3, 3)
    stride: Triple | None = None
    padding: Triple = (0, 0, 0)
    occupied: float = 0.4
    shuffled: bool = False
    cin: int = 3
    cout: int = 4
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        kind = "subm" if self.stride is None else f"stride{_word(self.stride)}pad{_word(self.padding)}"
        rows = "shuffled" if self.shuffled else "sorted"
        return f"{kind}-k{_word(self.kernel)}-{_word(self.shape)}-{self.occupied}-{rows}"

    def coords(self) -> Tensor:
        every = all_cells(self.batch, self.shape)
        own = every[torch.rand(len(every)) < self.occupied]
        return own[torch.randperm(len(own))] if self.shuffled else own

    def pairs(self, coords: Tensor) -> tuple[ConvPairs, Tensor, Triple]:
        """The lists, the outputs' coordinates and their grid."""
        if self.stride is None:
            return submanifold_pairs(coords, self.shape, self.kernel), coords, self.shape
        return strided_pairs(coords, self.shape, self.kernel, self.stride, self.padding)

    def inputs(self, rows: int) -> dict[str, Tensor]:
        """x, weight, bias of the convolution and scales, the depthwise weight; with gradients."""
        made = {
            "x": torch.randn(rows, self.cin),
            "weight": torch.randn(self.cout, *self.kernel, self.cin),
            "bias": torch.randn(self.cout),
            "scales": torch.randn(*self.kernel, self.cin),
        }
        return {name: t.to(self.dtype).requires_grad_() for name, t in made.items()}

    def words(self) -> dict[str, Triple]:
        """stride and padding of the dense convolution."""
        if self.stride is None:
            return {"padding": tuple(k // 2 for k in self.kernel)}
        return {"stride": self.stride, "padding": self.padding}


def _word(triple: Triple) -> str:
    return "x".join(map(str, triple))


def all_cells(batch: int, shape: Triple) -> Tensor:
    """Every cell of a batch of grids, in order."""
    return torch.cartesian_prod(*(torch.arange(n) for n in (batch, *shape)))


CASES = (
    Case(),
    Case(shuffled=True),
    Case(kernel=(1, 1, 5), shape=(2, 3, 4)),
    Case(kernel=(1, 5, 1), shape=(2, 3, 7), shuffled=True),
    Case(kernel=(5, 3, 1), shape=(3, 3, 3), batch=3),
    Case(kernel=(1, 1, 1)),
    Case(kernel=(7, 7, 7), shape=(2, 1, 3), occupied=0.8),
    Case(occupied=1.0, shape=(3, 2, 4)),
    Case(shape=(1, 1, 1), occupied=1.0),
    Case(kernel=(3, 1, 1), stride=(2, 1, 1), shape=(5, 3, 4)),
    Case(kernel=(3, 1, 1), stride=(2, 1, 1), shape=(6, 3, 4), shuffled=True),
    Case(kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), shape=(7, 5, 6), shuffled=True),
    Case(kernel=(2, 3, 2), stride=(1, 2, 3), padding=(0, 2, 1), shape=(4, 4, 5)),
    Case(kernel=(1, 2, 2), stride=(3, 3, 3), shape=(4, 6, 7)),
    Case(kernel=(3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1), occupied=0.1, shuffled=True),
)


def dense(x: Tensor, coords: Tensor, batch: int, shape: Triple) -> Tensor:
    """Rows (M, C) -> (batch, C, Z, Y, X), zero where nothing is."""
    grid = x.new_zeros(batch, *shape, x.shape[1])
    return grid.index_put(tuple(coords.t()), x).permute(0, 4, 1, 2, 3)


def rows_of(grid: Tensor, coords: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(coords.t())]


def dense_conv(case: Case, x: dict[str, Tensor], coords: Tensor, outputs: Tensor) -> Tensor:
    """The convolution of the dense grid in float64, read at the output cells."""
    grid = dense(x["x"].double(), coords, case.batch, case.shape)
    weight = x["weight"].double().permute(0, 4, 1, 2, 3)
    return rows_of(conv3d(grid, weight, **case.words()), outputs) + x["bias"].double()


def dense_depthwise(case: Case, x: dict[str, Tensor], coords: Tensor, outputs: Tensor) -> Tensor:
    grid = dense(x["x"].double(), coords, case.batch, case.shape)
    weight = x["scales"].double().permute(3, 0, 1, 2).unsqueeze(1)
    return rows_of(conv3d(grid, weight, groups=case.cin, **case.words()), outputs)


def gradients(y: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a fixed weighted sum of y, by name."""
    weights = torch.sin(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(y.dtype)
    grads = torch.autograd.grad(y, list(inputs.values()), weights.to(y.device), retain_graph=True)
    return dict(zip(inputs, grads, strict=True))
