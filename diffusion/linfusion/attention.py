"""LinFusion's attention, arXiv 2409.02097.

    a_i = phi(W_q (x_i + f(x_i)))   b_j = phi(W_k (x_j + g(x_j)))   v_j = W_v x_j   phi = elu + 1
    y_i = W_o ( a_i . 1/N sum_j b_j v_j^T ) / ( a_i . 1/N sum_j b_j + 1e-4 )

N tokens i, j of one image; f and g are two MLPs: Linear (C -> M), LayerNorm, LeakyReLU, Linear (M -> C).
No position, no scale, no mask: locality is the convolutions' affair.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import LinState, lin_readout, lin_reduce
from ..swap import OwnProcessor

EPS = 1e-4  # on the mean of the keys


class LinFusionAttnProcessor:
    """Stateless: projections and MLPs are the attention module's."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C). A mask and ``temb`` have no part in it, as in the authors' code.

        Raises: ValueError for a context, which a self-attention has not.
        """
        if encoder_hidden_states is not None:
            raise ValueError("encoder_hidden_states must be None for a swapped self-attention, got a context")
        q, k, v = self.project(attn, hidden_states)
        state = attn.merge_state(lin_reduce(k, v, feature="elu1", norm="sum"))
        return self.leave(attn, lin_readout(q, state, feature="elu1", norm="sum", eps=EPS, eps_on="mean"))

    def project(self, attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> q, k, v, each (B, N, H, D), before phi."""
        q, k, v = attn.to_q(x + attn.to_q_(x)), attn.to_k(x + attn.to_k_(x)), attn.to_v(x)
        return tuple(t.unflatten(-1, (attn.heads, -1)) for t in (q, k, v))

    def leave(self, attn: nn.Module, y: Tensor) -> Tensor:
        """(B, N, H, D) -> (B, N, C)."""
        return attn.to_out[1](attn.to_out[0](y.flatten(2)))


class LinFusionMixin(OwnProcessor):
    """What diffusers' ``Attention`` becomes, with ``to_q_`` and ``to_k_`` added."""

    PROCESSOR = LinFusionAttnProcessor
    METHOD = "linfusion"

    def merge_state(self, state: LinState) -> LinState:
        """The state over all tokens of the image; where they lie on several devices, a subclass adds."""
        return state


@cache
def linfusion_class(cls: type) -> type:
    """The subclass of diffusers' ``Attention`` that computes this."""
    return type("LinFusionAttention", (LinFusionMixin, cls), {"__module__": __name__})


def make_mlp(width: int, hidden: int | None, like: Tensor) -> nn.Module:
    """f or g. ``hidden`` None: as wide as ``width``; -1: the identity."""
    if hidden == -1:
        return nn.Identity()
    hidden = width if hidden is None else hidden
    words: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    return nn.Sequential(
        nn.Linear(width, hidden, **words),
        nn.LayerNorm(hidden, **words),
        nn.LeakyReLU(0.01),
        nn.Linear(hidden, width, **words),
    )


@torch.no_grad()
def inherit(attn: nn.Module) -> None:
    """Start at phi-attention with the softmax model's projections: the MLPs add nothing yet.

    Without an MLP (the identity) x + x enters the projection, which is halved.
    """
    for mlp, projection in ((attn.to_q_, attn.to_q), (attn.to_k_, attn.to_k)):
        if isinstance(mlp, nn.Identity):
            projection.weight.mul_(0.5)
        else:
            nn.init.zeros_(mlp[-1].weight)
            nn.init.zeros_(mlp[-1].bias)


def randomise(attn: nn.Module) -> None:
    """Fresh projections; the authors' code starts there."""
    for module in (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]):
        module.reset_parameters()
