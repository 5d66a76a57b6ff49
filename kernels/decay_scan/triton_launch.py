"""Host side of the Triton kernels: forward and backward of the eager file, on tensors, without autograd."""

from typing import Any

import torch
from torch import Tensor

from ..linear_attn.triton_plan import Launch, arch_of, check, launch, ready, strides_of
from .arguments import OP
from .eager import Inputs, Words
from .triton_gradients import gradients_kernel
from .triton_outputs import outputs_kernel
from .triton_states import states_kernel
from .triton_tiles import Tile, chunk_length, dot_precision, tile_for

KINDS = {1: "constant", 3: "token", 4: "channel"}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


class Chunks:
    """The chunks of all rows or segments, numbered row by row; nothing is read back from the device.

    Of segments the list is as long as it can get (one partial chunk each); what is left over names row R and
    is skipped.
    """

    def __init__(self, q: Tensor, cu_seqlens: Tensor | None, span: int) -> None:
        tokens = q.shape[1]
        self.cu = self.row = self.chunk = self.first = None
        if cu_seqlens is None:
            self.states = q.shape[0]
            self.count = self.states * _ceil(tokens, span)
            return
        self.cu, self.states = cu_seqlens.int().contiguous(), cu_seqlens.shape[0] - 1
        self.count = _ceil(tokens, span) + self.states
        counts = (self.cu.diff() + (span - 1)) // span
        ends = counts.cumsum(0)
        number = torch.arange(self.count, device=q.device)
        row = torch.searchsorted(ends, number, right=True)
        first = ends - counts
        self.row, self.first = row.int(), first.int()
        self.chunk = (number - first[row.clamp(max=self.states - 1)]).int()


class Call:
    """What all launches of one forward or backward share."""

    def __init__(self, x: Inputs, words: Words) -> None:
        check(OP, x.q)
        gates = x.log_decay if x.log_decay.dim() < 4 else ready(x.log_decay)
        bonus = None if x.bonus is None else x.bonus.contiguous()
        self.x = x = x._replace(q=ready(x.q), k=ready(x.k), v=ready(x.v), log_decay=gates, bonus=bonus)
        self.words, self.kind = words, KINDS[gates.dim()]
        self.batch, self.tokens, self.heads, self.key_dim = x.q.shape
        self.values = x.v.shape[3]
        self.value_dim = self.values + words.count
        self.span, self.rows = chunk_length(self.kind, self.tokens, words.symmetric_block)
        self.chunks = Chunks(x.q, x.cu_seqlens, self.span)
        self.arch = arch_of(x.q.device)

    def tile(self, kernel: str) -> Tile:
        kernel = f"channel_{kernel}" if self.kind == "channel" else kernel
        return tile_for(kernel, self.key_dim, self.value_dim, self.x.q.dtype, self.arch)

    def sides(self) -> dict[str, Any]:
        """Log decays and weights and their strides; those per channel are with the tensors."""
        g, weight = self.x.log_decay, self.x.log_weight
        sides = {"g": g, "weight": weight, "cu": self.chunks.cu, "N": self.tokens, "span": self.span}
        strides = {"w": (0, 0, 0) if weight is None else weight.stride()}
        if self.kind != "channel":
            strides["g"] = (0, 0, g.stride(0)) if self.kind == "constant" else g.stride()
        return sides | {n + a: s for n, steps in strides.items() for a, s in zip("bnh", steps, strict=True)}

    def constants(self, tile: Tile, align: int) -> dict[str, Any]:
        words = self.words
        return {
            "H": self.heads,
            "D": self.key_dim,
            "E": self.value_dim,
            "EV": self.values,
            "COUNT": words.count,
            "GATES": self.kind,
            "EXCLUSIVE": words.exclusive,
            "REVERSE": words.reverse,
            "ALIGN": align,
            "BN": self.rows,
            "BD": tile.keys,
            "BE": tile.values,
            "PARTS": 3 if self.x.q.dtype == torch.float32 else 2,
            "PRECISION": dot_precision(self.x.q, self.arch),
        }

    def strides(self, **tensors: Tensor) -> tuple[dict[str, int], int]:
        gates = {"g": self.x.log_decay} if self.kind == "channel" else {}
        return strides_of(**tensors, **gates)

    def of_chunks(self) -> dict[str, Any]:
        """Arguments of the kernels whose programs each take one chunk."""
        x, chunks = self.x, self.chunks
        places = {"tile_row": chunks.row, "tile_chunk": chunks.chunk, "R": chunks.states}
        return {"q": x.q, "k": x.k, "v": x.v, "bonus": x.bonus, "scale": self.words.scale, **places}

    def of_pairs(self) -> dict[str, Any]:
        """Constants of the kernels that form a chunk's token-to-token weights."""
        return {"SYMMETRIC": self.words.symmetric_block > 0, "LEVELS": self.rows.bit_length() - 1}

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.x.q.new_empty(shape, dtype=dtype)

    def launch(
        self, kernel: Any, grid: tuple[int, ...], tile: Tile, args: dict[str, Any], constants: dict[str, Any]
    ) -> None:
        launch(self.x.q.device, Launch(kernel, grid, args, constants, tile))

    def states(self, initial: Tensor | None, do: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States before every chunk (chunks, H, D, E) and after the last (R, H, D, E); with do, gradients of
        the states after every chunk and of the initial one.
        """
        x, tile, backward = self.x, self.tile("states"), do is not None
        every = self.empty(self.chunks.count, self.heads, self.key_dim, self.value_dim)
        last = self.empty(self.chunks.states, self.heads, self.key_dim, self.value_dim)
        strides, align = self.strides(x=x.q if backward else x.k, v=x.v)
        args = {"x": x.q if backward else x.k, "v": None if backward else x.v, "do": do} | self.sides()
        args |= {"initial": None if initial is None else initial.contiguous(), "states_out": every}
        args |= {"last_out": last, "scale": self.words.scale, "first_tile": self.chunks.first} | strides
        if backward:
            args["weight"] = None
        constants = self.constants(tile, align) | {"BACKWARD": backward}
        cells = _ceil(self.key_dim, tile.keys) * _ceil(self.value_dim, tile.values)
        self.launch(states_kernel, (self.chunks.states, self.heads, cells), tile, args, constants)
        return every, last

    def outputs(self, states: Tensor, out: Tensor, do: Tensor | None = None) -> None:
        """o from the states before every chunk; with do, the gradient of v from those after it."""
        tile, transposed = self.tile("outputs"), do is not None
        strides, align = self.strides(q=self.x.q, k=self.x.k, v=self.x.v)
        args = self.of_chunks() | self.sides() | strides | {"do": do, "states": states, "out": out}
        if transposed:
            args["v"] = None
        constants = self.constants(tile, align) | self.of_pairs() | {"TRANSPOSED": transposed}
        grid = (self.chunks.count, self.heads, _ceil(out.shape[3], tile.values))
        self.launch(outputs_kernel, grid, tile, args, constants)

    def gradients(self, do: Tensor, states: Tensor, dstates: Tensor) -> dict[str, Tensor | None]:
        """dq, dk, dg, dweight, dbonus, summed over their parts in a fixed order."""
        x, tile = self.x, self.tile("gradients")
        parts = (_ceil(self.key_dim, tile.keys), self.batch, self.tokens, self.heads)
        dq, dk = (x.q.new_empty(t.shape) for t in (x.q, x.k))
        channel = self.kind == "channel"
        dg = x.q.new_empty(x.log_decay.shape, dtype=x.log_decay.dtype) if channel else self.empty(*parts)
        dweight = None if x.log_weight is None else self.empty(*parts)
        dbonus = None if x.bonus is None else self.empty(self.chunks.count, self.heads, self.key_dim)
        strides, align = self.strides(q=x.q, k=x.k, v=x.v)
        args = self.of_chunks() | self.sides() | strides
        args |= {"do": do, "states": states, "dstates": dstates, "dq_out": dq, "dk_out": dk}
        args |= {"dg_out": dg, "dweight_out": dweight, "dbonus_out": dbonus}
        constants = self.constants(tile, align) | self.of_pairs()
        if channel and x.q.dtype == torch.float32:
            constants["PRECISION"] = "ieee"  # three tf32 products leave stack here
        grid = (self.chunks.count, self.heads, parts[0])
        self.launch(gradients_kernel, grid, tile, args, constants)
        return {"q": dq, "k": dk, "g": dg, "weight": dweight, "bonus": dbonus}


def scan_forward(x: Inputs, words: Words) -> tuple[Tensor, Tensor]:
    """o (B, N, H, E) in q's dtype (float32 with ``count``) and the last states (R, H, D, E) in float32."""
    call = Call(x, words)
    states, last = call.states(x.initial)
    o = call.empty(*x.q.shape[:3], call.value_dim, dtype=torch.float32 if words.count else x.q.dtype)
    call.outputs(states, o)
    return o, last


def scan_backward(do: Tensor, dS: Tensor, x: Inputs, words: Words) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, log_decay, log_weight, bonus and initial; None for what was not given."""
    call = Call(x, words)
    do = do.contiguous()
    states, _ = call.states(x.initial)
    dstates, dinitial = call.states(dS, do)
    dv = x.v.new_empty(x.v.shape)
    call.outputs(dstates, dv, do)
    grads = call.gradients(do, states, dstates)
    dg, dweight, dbonus = grads["g"], grads["weight"], grads["bonus"]
    if call.kind != "channel":
        dg = dg.sum((0, 1, 2) if call.kind == "constant" else 0).to(x.log_decay.dtype)
    if dweight is not None:
        dweight = dweight.sum(0).to(x.log_weight.dtype)
    if dbonus is not None:
        if call.chunks.row is not None:
            dbonus = dbonus.masked_fill((call.chunks.row == call.chunks.states)[:, None, None], 0)
        dbonus = dbonus.sum(0).to(x.bonus.dtype)
    return grads["q"], grads["k"], dv, dg, dweight, dbonus, None if x.initial is None else dinitial
