"""The size of one published model on the shared skeleton."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Keyword arguments of ``Pyramid`` that differ between the sizes of a family."""

    dims: tuple[int, ...]  # channels of each stage
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]  # of each stage; divide dims
    drop_path_rate: float  # of the last block, when training from scratch
    ffn_ratio: float = 3.5  # hidden width over dims
    neck_dim: int = 1024  # channels that are pooled
    layer_scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # initial value for each stage

    def kwargs(self) -> dict:
        return asdict(self)


def head_dims_of(state_dict: Mapping[str, Tensor], variants: Mapping[str, Variant]) -> tuple[int, ...]:
    """Channels of a head in each stage of the published variant whose widths and depths a state dict has.

    Raises: ValueError when there is none.
    """
    dims, depths = [], []
    while (weight := state_dict.get(f"stages.{len(dims)}.blocks.0.norm1.weight")) is not None:
        stage = len(dims)
        dims.append(weight.numel())
        depths.append(
            sum(f"stages.{stage}.blocks.{j}.norm1.weight" in state_dict for j in range(len(state_dict)))
        )
    for variant in variants.values():
        if variant.dims == tuple(dims) and variant.depths == tuple(depths):
            return tuple(dim // heads for dim, heads in zip(dims, variant.heads, strict=True))
    raise ValueError(
        f"head_dims must be given for a model that is not published (dims {tuple(dims)}, "
        f"depths {tuple(depths)}; known: {', '.join(variants)})"
    )
