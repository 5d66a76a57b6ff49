"""Host side of the Triton kernels: forward and backward of the eager files, on tensors, without autograd."""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError
from ..linear_attn.triton_plan import Launch, arch_of, check, launch, processors, ready, strides_of
from .arguments import OP
from .geometry import Geometry
from .merge import merge_attn
from .triton_backward import key_gradient_kernel, query_gradient_kernel
from .triton_forward import forward_kernel
from .triton_tiles import Tile, dot_precision, split_count, tile_for

LOG2E = 1.4426950408889634
FARTHEST = 1 << 15  # reach of a circle whose squares fit 32 bits


class Call:
    """What all launches of one forward or backward share."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, g: Geometry, scale: float, **more: Tensor | None
    ) -> None:
        check(OP, q if q.shape[-1] >= v.shape[-1] else v)
        self.q, self.k, self.v, self.g, self.scale = q, k, v, g, scale
        self.more = more
        circle = g.limit < g.reach_y**2 + g.reach_x**2
        if circle and max(g.reach_y, g.reach_x) >= FARTHEST:
            raise BackendError(
                f"{OP}: backend 'triton' takes a radius up to {FARTHEST} tokens, got a larger one"
            )
        self.batch, _, self.heads, self.key_dim = q.shape
        self.value_dim = v.shape[-1]
        self.circle = circle

    def launch(
        self, kernel: Any, name: str, windowed: bool, blocks: int, args: dict[str, Any], *, splits: int = 1
    ) -> None:
        tile = self.tile(name)
        tensors = {key: x for key, x in args.items() if key in ("q", "k", "v")}
        extra = args.get("extra_k") is not None
        named = tensors | ({"a": args["extra_k"], "c": args["extra_v"]} if extra else {})
        strides, align = strides_of(**named)
        if "extra_k" in args and not extra:
            strides |= {part + axis: 0 for part in "ac" for axis in "bnh"}
        g = self.g
        numbers = {"rows": g.rows, "width": g.width, "first": g.first, "query_rows": g.last - g.first}
        numbers |= {"reach_y": g.reach_y, "reach_x": g.reach_x, "limit": g.limit if self.circle else 0}
        numbers |= {"query_image": g.query_image_start, "key_image": g.key_image_start, "n_split": splits}
        constants = self.constants(tile, align) | {"WINDOWED": windowed, "CIRCLE": self.circle and windowed}
        args = {"scale": self.scale * LOG2E, **args, **strides, **numbers}
        grid = (blocks * splits, self.heads, self.batch)
        launch(self.q.device, Launch(kernel, grid, args, constants, tile))

    def tile(self, name: str) -> Tile:
        return tile_for(name, self.key_dim, self.value_dim, self.q.dtype, arch_of(self.q.device))

    def constants(self, tile: Tile, align: int) -> dict[str, Any]:
        (qy, qx), (ky, kx) = tile.queries, tile.keys
        sizes = {
            "QY": qy,
            "QX": qx,
            "KY": ky,
            "KX": kx,
            "BD": _padded(self.key_dim),
            "BE": _padded(self.value_dim),
        }
        sizes |= {"H": self.heads, "D": self.key_dim, "E": self.value_dim, "ALIGN": align}
        return sizes | {"PRECISION": dot_precision(self.q, arch_of(self.q.device))}

    def splits(self, blocks: int, tokens: int) -> int:
        return split_count(blocks * self.heads * self.batch, tokens, processors(self.q.device))


def _padded(width: int) -> int:
    """The power of two, 16 or more (a dot takes no less), that holds ``width``."""
    return max(16, 1 << (width - 1).bit_length())


def _blocks(tokens: int, size: tuple[int, int]) -> int:
    return -(-tokens // math.prod(size))


def _tiles(rows: int, width: int, size: tuple[int, int]) -> int:
    return -(-rows // size[0]) * -(-width // size[1])


def _prepared(
    g: Geometry, q: Tensor, k: Tensor, v: Tensor, extra_k: Tensor | None, extra_v: Tensor | None, scale: float
) -> tuple[Call, dict[str, Tensor | None]]:
    q, k, v = ready(q), ready(k), ready(v)
    extras = {"extra_k": extra_k, "extra_v": extra_v}
    extras = {name: None if x is None else ready(x) for name, x in extras.items()}
    return Call(q, k, v, g.clipped(), scale), {"q": q, "k": k, "v": v, **extras}


def forward(
    q: Tensor, k: Tensor, v: Tensor, extra_k: Tensor | None, extra_v: Tensor | None, g: Geometry, scale: float
) -> tuple[Tensor, Tensor]:
    """y (B, Nq, H, E) in q's dtype, lse (B, Nq, H) float32; contiguous."""
    call, tensors = _prepared(g, q, k, v, extra_k, extra_v, scale)
    y = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    tile = call.tile("forward")
    if g.image_queries:
        args = tensors | {"y_out": y, "lse_out": lse, "n_extra": 0 if extra_k is None else extra_k.shape[1]}
        args |= _flat(g.key_global_start, g.k_global) | _rows(0, 0, g.query_image_start, q.shape[1])
        blocks = _tiles(g.last - g.first, g.width, tile.queries)
        call.launch(forward_kernel, "forward", True, blocks, args)
    if g.q_global:
        blocks = _blocks(g.q_global, tile.queries)
        splits = call.splits(blocks, k.shape[1])
        parts = q.new_empty((splits, len(q), g.q_global, *y.shape[2:]), dtype=torch.float32)
        lses = q.new_empty(parts.shape[:4], dtype=torch.float32)
        args = tensors | {"y_out": parts, "lse_out": lses, "extra_k": None, "extra_v": None, "n_extra": 0}
        args |= _flat(0, k.shape[1]) | _rows(g.query_global_start, g.q_global, 0, g.q_global)
        call.launch(forward_kernel, "forward", False, blocks, args, splits=splits)
        whole, its_lse = merge_attn(list(zip(parts, lses, strict=True)))
        g.globals_of_queries(y).copy_(whole)
        g.globals_of_queries(lse).copy_(its_lse)
    return y, lse


def _flat(start: int, count: int) -> dict[str, int]:
    """The run of tokens that a kernel goes through after its windows."""
    return {"flat_start": start, "flat_end": start + count}


def _rows(start: int, count: int, out_start: int, n_out: int) -> dict[str, int]:
    """The tokens whose result a kernel writes, where they are no rectangle; and where it writes them."""
    return {"block_start": start, "block_end": start + count, "out_start": out_start, "n_out": n_out}


def backward(
    dy: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_k: Tensor | None, extra_v: Tensor | None,
    y: Tensor, lse: Tensor, g: Geometry, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """(dq, dk, dv, dextra_k, dextra_v) in the inputs' dtypes, contiguous; None without extra keys."""
    call, tensors = _prepared(g, q, k, v, extra_k, extra_v, scale)
    y, dy, lse, dlse = y.contiguous(), dy.to(q.dtype).contiguous(), lse.contiguous(), dlse.contiguous()
    delta = q.new_empty(q.shape[:3], dtype=torch.float32)
    dq = _query_gradient(call, tensors, {"y_in": y, "dy": dy, "lse_in": lse, "dlse": dlse}, delta)
    shared = {"q": tensors["q"], "dy": dy, "lse_in": lse, "delta_in": delta}
    dk, dv = (q.new_empty(x.shape) for x in (k, v))
    image = {"k": tensors["k"], "v": tensors["v"], "dk_out": dk, "dv_out": dv}
    args = shared | image | _flat(g.query_global_start, g.q_global)
    args |= _rows(0, 0, g.key_image_start, k.shape[1]) | {"n_queries": q.shape[1], "unit": scale}
    tile = call.tile("key_gradient")
    call.launch(key_gradient_kernel, "key_gradient", True, _tiles(g.rows, g.width, tile.keys), args)
    if g.k_global:
        own = (tensors["k"], tensors["v"], g.key_global_start, g.k_global)
        parts = _dense_key_gradient(call, shared, *own, 0, q.shape[1])
        for whole, part in zip((dk, dv), parts, strict=True):
            g.globals_of_keys(whole).copy_(part)
    if extra_k is None:
        return dq, dk, dv, None, None
    own = (tensors["extra_k"], tensors["extra_v"], 0, extra_k.shape[1])
    parts = _dense_key_gradient(call, shared, *own, g.query_image_start, g.image_queries)
    return dq, dk, dv, *(part.to(q.dtype) for part in parts)


def _query_gradient(
    call: Call, tensors: dict[str, Tensor | None], rows: dict[str, Tensor], delta: Tensor
) -> Tensor:
    """dq; writes delta."""
    q, k, g = call.q, call.k, call.g
    dq = q.new_empty(q.shape)
    tile = call.tile("query_gradient")
    common = tensors | rows | {"delta_out": delta, "unit": call.scale, "n_queries": q.shape[1]}
    if g.image_queries:
        extra = tensors["extra_k"]
        args = common | {"dq_out": dq, "n_extra": 0 if extra is None else extra.shape[1]}
        args |= _flat(g.key_global_start, g.k_global) | _rows(0, 0, g.query_image_start, q.shape[1])
        blocks = _tiles(g.last - g.first, g.width, tile.queries)
        call.launch(query_gradient_kernel, "query_gradient", True, blocks, args)
    if g.q_global:
        blocks = _blocks(g.q_global, tile.queries)
        splits = call.splits(blocks, k.shape[1])
        parts = q.new_empty((splits, len(q), g.q_global, *q.shape[2:]), dtype=torch.float32)
        args = common | {"dq_out": parts, "extra_k": None, "extra_v": None, "n_extra": 0}
        args |= _flat(0, k.shape[1]) | _rows(g.query_global_start, g.q_global, 0, g.q_global)
        call.launch(query_gradient_kernel, "query_gradient", False, blocks, args, splits=splits)
        g.globals_of_queries(dq).copy_(parts.sum(0))
    return dq


def _dense_key_gradient(
    call: Call, shared: dict[str, Tensor], k: Tensor, v: Tensor, start: int, count: int, query_start: int,
    queries: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dk, dv) in float32 of ``count`` keys that all queries of a run see."""
    blocks = _blocks(count, call.tile("key_gradient").keys)
    splits = call.splits(blocks, queries)
    dk, dv = (x.new_empty((splits, len(x), count, *x.shape[2:]), dtype=torch.float32) for x in (k, v))
    args = shared | {"k": k, "v": v, "dk_out": dk, "dv_out": dv, **_flat(query_start, queries)}
    args |= _rows(start, count, 0, count) | {"n_queries": call.q.shape[1], "unit": call.scale}
    call.launch(key_gradient_kernel, "key_gradient", False, blocks, args, splits=splits)
    return dk.sum(0), dv.sum(0)
