"""Host side of the Triton kernels: forward and backward of the eager files, on tensors, without autograd."""

from typing import Any

import torch
from torch import Tensor

from ..linear_attn.triton_plan import Launch, check, launch, ready
from ..segments import cu_seqlens_to_lengths
from .arguments import OP
from .eager import Inputs
from .triton_outputs import gradients_kernel, outputs_kernel
from .triton_states import between_kernel, sums_kernel
from .triton_tiles import CHUNK, kept_states, tile_for

LOG2E = 1.4426950408889634


class Call:
    """What all launches of one forward or backward share."""

    def __init__(self, x: Inputs) -> None:
        check(OP, x.u)
        self.x = x._replace(u=ready(x.u), delta=ready(x.delta), B=ready(x.B), C=ready(x.C))
        self.channels, self.size = x.A.shape
        self.A = x.A.float().mul(LOG2E).contiguous()
        self.D = None if x.D is None else x.D.float().contiguous()
        self.states = len(x.u) if x.cu_seqlens is None else len(x.cu_seqlens) - 1
        self.chunks = kept_states(x.u, x.cu_seqlens)
        self.where: dict[str, Tensor | None] = {"segment": None, "first_slots": None, "cu": x.cu_seqlens}
        if x.cu_seqlens is not None:
            self.where |= _slots(x.cu_seqlens, self.chunks)

    def launch(self, kernel: Any, name: str, programs: int, args: dict[str, Any], **constants: bool) -> None:
        tile = tile_for(name, self.size)
        sizes = {"C": self.channels, "S": self.size, "SIZE": CHUNK, "BC": tile.channels, "BS": tile.states}
        args = {"A": self.A, "N": self.x.u.shape[1], **args}
        if name == "between":
            args["first_slots"] = self.where["first_slots"]
        else:
            args |= self.where | {"n_states": self.states}
            constants |= {"REVERSE": self.x.reverse}
            sizes["T"] = tile.tokens
            for part in "udwr":
                x = args.get({"d": "delta"}.get(part, part))
                args |= {} if x is None else {part + "b": x.stride(0), part + "n": x.stride(1)}
        grid = (programs, -(-self.channels // tile.channels))
        launch(self.x.u.device, Launch(kernel, grid, args, sizes | constants, tile))

    def between(self, u: Tensor, w: Tensor, start: Tensor | None, adjoint: bool) -> tuple[Tensor, Tensor]:
        """States before every chunk (chunks, C, S) and after the last; the adjoint runs the other way."""
        sums = self.x.u.new_empty((self.chunks, self.channels, self.size), dtype=torch.float32)
        totals = self.x.u.new_empty((self.chunks, self.channels), dtype=torch.float32)
        last = self.x.u.new_empty((self.states, self.channels, self.size), dtype=torch.float32)
        args = {"u": u, "delta": self.x.delta, "w": w, "sums": sums, "totals": totals}
        self.launch(sums_kernel, "sums", self.chunks, args, ADJOINT=adjoint)
        args = {"start": start, "sums": sums, "totals": totals, "last": last}
        self.launch(between_kernel, "between", self.states, args, ADJOINT=adjoint)
        return sums, last


def _slots(cu_seqlens: Tensor, chunks: int) -> dict[str, Tensor]:
    """The segment of every chunk (past the last one: G) and the first chunk of every segment, both int32."""
    per_segment = (cu_seqlens_to_lengths(cu_seqlens) + CHUNK - 1) // CHUNK
    ends = per_segment.cumsum(0)
    slots = torch.arange(chunks, device=cu_seqlens.device)
    segment = torch.searchsorted(ends, slots, right=True)
    return {"segment": segment.int(), "first_slots": torch.nn.functional.pad(ends, (1, 0)).int()}


def _start(initial: Tensor | None) -> Tensor | None:
    return None if initial is None else initial.float().contiguous()


def forward(x: Inputs, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, N, C) in u's dtype; states after the last tokens (R, C, S); states before chunks, if kept."""
    call = Call(x)
    x = call.x
    y = x.u.new_empty(x.u.shape)
    states, last = call.between(x.u, x.B, _start(x.initial), adjoint=False)
    args = {"u": x.u, "delta": x.delta, "w": x.B, "r": x.C, "D": call.D, "y": y, "states": states}
    call.launch(outputs_kernel, "outputs", call.chunks, args)
    return y, last, states if keep else states.new_empty((0, *states.shape[1:]))


def backward(dy: Tensor, dstate: Tensor, x: Inputs, kept: Tensor) -> tuple[Tensor | None, ...]:
    """(du, ddelta, dA, dB, dC, dD, dinitial) in the inputs' dtypes; None where there is no input."""
    call = Call(x)
    x, dy = call.x, dy.contiguous()
    if len(kept) < call.chunks:  # the forward was told that no gradient would be asked for
        kept = call.between(x.u, x.B, _start(x.initial), adjoint=False)[0]
    arriving, dinitial = call.between(dy, x.C, dstate.float().contiguous(), adjoint=True)
    du, ddelta = x.u.new_empty(x.u.shape), x.delta.new_empty(x.u.shape)
    tiles = -(-call.channels // tile_for("gradients", call.size).channels)
    dB, dC = (x.u.new_empty((tiles, *x.B.shape), dtype=torch.float32) for _ in range(2))
    dA = kept.new_empty(kept.shape)
    dD = kept.new_empty(kept.shape[:2])
    args = {"u": x.u, "delta": x.delta, "w": x.B, "r": x.C, "D": call.D, "dy": dy, "states": kept}
    args |= {"arriving": arriving, "du": du, "ddelta": ddelta, "dw": dB, "dr": dC, "dA": dA, "dD": dD}
    call.launch(gradients_kernel, "gradients", call.chunks, args)
    dB, dC = (part.sum(0).to(b.dtype) for part, b in ((dB, x.B), (dC, x.C)))
    dD = None if x.D is None else dD.sum(0).to(x.D.dtype)
    return du, ddelta, dA.sum(0).to(x.A.dtype), dB, dC, dD, None if x.initial is None else dinitial
