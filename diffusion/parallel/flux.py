"""A CLEAR FLUX transformer over ranks: its attentions change, and the whole call. All else is per token."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from .agree import agree_on
from .bands import Span, cut
from .clear import BandClear
from .place import Parallel
from .plan import Plan, Target, check_inference

SHAPES = {"hidden_states": 3, "encoder_hidden_states": 3, "img_ids": 3}
VALUES = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance", "img_ids")


class ParallelFlux(Parallel):
    """The model's class while parallel: the same inputs in, the same whole output out, on every rank."""

    def forward(self, *args: Any, **words: Any) -> Any:
        check_inference()
        words = bound(self, args, words)
        call, x = self.place.call, words["hidden_states"]
        call.link.traffic.clear()
        agree_on(call.link, words, SHAPES, VALUES, x.device)
        grid = self.grid_of(x, words["img_ids"], words["joint_attention_kwargs"])
        unit = pooling_unit(self, grid)
        why = "down_factor pools blocks of that many rows"
        call.begin(cut(grid[0], call.link.world, unit, call.rows, "rows of image tokens", why), 0)
        try:
            out = super().forward(**sliced(words, call.last, grid))
            return whole(self, out, grid)
        finally:
            call.end()


def bound(model: nn.Module, args: tuple, words: dict) -> dict[str, Any]:
    """All arguments of the call by name. Raises: ValueError for a cache, by which ranks would part."""
    from diffusers import FluxTransformer2DModel

    if getattr(model, "is_cache_enabled", False):
        raise ValueError(
            "parallelize: caches must be off (each rank would decide by its own band), got one on; call "
            "disable_cache()"
        )
    filled = inspect.signature(FluxTransformer2DModel.forward).bind(model, *args, **words)
    filled.apply_defaults()
    del filled.arguments["self"]
    return filled.arguments


def pooling_unit(model: nn.Module, grid: tuple[int, int]) -> int:
    """Bands are multiples of it. Raises: ValueError, on every rank, for a grid that it does not divide."""
    attention = next(m for m in model.modules() if isinstance(m, BandClear))
    f = attention.clear_options.down_factor
    if grid[0] % f or grid[1] % f:
        raise ValueError(
            f"parallelize: the grid must be divisible by down_factor {f}, got {grid[0]} x {grid[1]} image "
            "tokens"
        )
    return f


def sliced(words: dict[str, Any], rows: Span, grid: tuple[int, int]) -> dict[str, Any]:
    """The arguments with this rank's rows: tokens, ids, what a ControlNet adds, a grid given by hand."""
    tokens, (a, b) = grid[0] * grid[1], (row * grid[1] for row in rows)

    def own(name: str, x: Tensor, dim: int) -> Tensor:
        if x.shape[dim] != tokens:
            raise ValueError(
                f"parallelize: {name} must have {tokens} image tokens, got shape {tuple(x.shape)}"
            )
        return x.narrow(dim, a, b - a)

    words = dict(words, hidden_states=own("hidden_states", words["hidden_states"], 1))
    words["img_ids"] = own("img_ids", words["img_ids"], words["img_ids"].dim() - 2)
    for name in ("controlnet_block_samples", "controlnet_single_block_samples"):
        if words[name] is not None:
            words[name] = [own(name, x, 1) for x in words[name]]
    if "grid" in (words["joint_attention_kwargs"] or {}):
        words["joint_attention_kwargs"] = dict(
            words["joint_attention_kwargs"], grid=(rows[1] - rows[0], grid[1])
        )
    return words


def whole(model: nn.Module, out: Any, grid: tuple[int, int]) -> Any:
    """The output with all tokens, in the kind of container that the model returned."""
    place = model.place
    own = out[0].unflatten(1, (-1, grid[1]))
    sample = place.link.gather_rows(own, 1, place.bands(), place.sender("gather")).flatten(1, 2)
    return (sample, *out[1:]) if type(out) is tuple else type(out)(sample=sample)


def plan(model: nn.Module, attentions: dict[str, nn.Module]) -> Plan:
    """What to change."""
    return Plan(tuple(Target(name, m, BandClear) for name, m in attentions.items()), ParallelFlux)
