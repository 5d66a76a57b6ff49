"""LightNet's attention, arXiv 2405.21022: one pass over the tokens of a grid, in no order.

    q, k, v = x W_q, x W_k, x W_v
    kbar = softmax of k over the positions, channel by channel
    O = P(silu(q)) (P(kbar)^T v)              P: MD-LRPE, see lrpe.py       cost N d e, state d x e a head
    y = W_o norm(O * act(x W_u1 W_u2))        the gate has low rank

causal=True: the softmax runs over the positions up to each token, see recurrence.py. The order of gate and
norm is that of the author's two-dimensional mixer; what the paper's image models use is not known, and every
choice is an argument.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import key_softmax_attn, lin_reduce
from ...kernels.autocast import exactly
from ...kernels.checks import accumulation_dtype, check_word
from ...kernels.key_softmax import Tables, encoded
from ..layers import Rope, register_mixer
from .lrpe import position_tables
from .recurrence import AdditiveState, additive_scan

FORMS = ("rotate", "cosine", "none")
KEYS = ("softmax", "silu")
GATES = {"sigmoid": torch.sigmoid, "silu": F.silu, "identity": lambda x: x}
NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


def linear_attn_unnormed(
    q: Tensor, k: Tensor, v: Tensor, rope: Tables | None, form: str, mask: Tensor | None
) -> Tensor:
    """P(q) (sum_j P(k_j) v_j^T), no denominator: (B, N, H, D) twice, (B, N, H, E) -> (B, N, H, E)."""
    acc = accumulation_dtype(q.dtype)
    with exactly(q):
        M = lin_reduce(encoded(k.to(acc), rope, form), v.to(acc), mask=mask).S
        y = encoded(q.to(acc), rope, form).transpose(1, 2) @ M
        return y.transpose(1, 2).to(q.dtype)


@register_mixer("lightnet")
class LightNetAttention(nn.Module):
    """The module's equation on a grid of any number of axes; (B, n_1, .., n_m, C) -> the same shape.

    Args:
        dim, heads: channels, and heads, which divide them.
        causal: the softmax over the positions up to each token, in row-major order.
        keys: "softmax", or "silu": linear attention with silu on q and k and no softmax.
        form: of MD-LRPE: "rotate" (not with causal), "cosine" or "none".
        gate: "sigmoid", "silu" or "identity".
        gate_first: the gate multiplies before the norm; False: behind it.
        gate_rank: width between the two matrices of the gate; None is the width of a head.
        gate_bias: whether they have biases.
        norm: "layer" or "rms", over all channels, with eps ``norm_eps``.
        scale: number that multiplies q; the norm leaves of it what eps makes.
        unit_prior: with causal, the mass before the first token is 1 instead of 0.
    Raises: ValueError that names the argument.
    """

    uses_rope = False  # it makes its own tables

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        keys: str = "softmax",
        form: str = "rotate",
        gate: str = "sigmoid",
        gate_first: bool = True,
        gate_rank: int | None = None,
        gate_bias: bool = True,
        norm: str = "layer",
        norm_eps: float = 1e-5,
        scale: float = 1.0,
        unit_prior: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        _check_options(dim, heads, causal, keys, form, gate, norm, unit_prior)
        self.heads, self.causal, self.keys, self.form = heads, causal, keys, form
        self.gate_act, self.gate_first, self.scale, self.unit_prior = gate, gate_first, scale, unit_prior
        rank = dim // heads if gate_rank is None else gate_rank
        self.qkv = nn.Linear(dim, 3 * dim, bias=False, **dd)
        self.gate = nn.Sequential(
            nn.Linear(dim, rank, bias=gate_bias, **dd), nn.Linear(rank, dim, bias=gate_bias, **dd)
        )
        self.norm = NORMS[norm](dim, eps=norm_eps, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    def forward(
        self,
        x: Tensor,
        rope: Rope | None = None,
        *,
        grid: Sequence[int] | None = None,
        prefix: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens of a grid; with ``grid`` given, already in a row, behind ``prefix`` tokens without position.

        Args:
            x: (B, n_1, .., n_m, C), or with grid (B, prefix + prod(grid), C).
            rope: ignored, the tables are made here.
            grid: (n_1, .., n_m), rows first.
            prefix: leading tokens (class, condition); they attend and are attended to.
            mask: bool, like x without its channels; tokens with False are no keys. Every token reads.
        Returns: x's shape.
        """
        tokens, shape = x, x.shape
        if grid is None:
            grid, tokens = tuple(shape[1:-1]), x.flatten(1, -2)
        mask = None if mask is None else mask.flatten(1)
        q, k, v = self.split_heads(tokens)
        tables = self.tables(grid, q, prefix)
        if self.causal:
            o, _ = self.scan_heads(q, k, v, tables, mask)
        elif self.keys == "silu":
            o = linear_attn_unnormed(q * self.scale, F.silu(k), v, tables, self.form, mask)
        else:
            form = "rotate" if tables is None else self.form
            o = key_softmax_attn(q * self.scale, k, v, rope=tables, form=form, mask=mask)
        return self.merge(o.flatten(2), tokens).view(shape)

    def scan(
        self, tokens: Tensor, state: AdditiveState | None = None, start: int = 0
    ) -> tuple[Tensor, AdditiveState]:
        """The causal form on part of a sequence, which continues ``state``: (B, N, C) -> (B, N, C), state.

        Args:
            state: what the part before returned; None at the beginning.
            start: number of tokens before, for the positions of form "cosine".
        Raises: ValueError for a module that is not causal.
        """
        if not self.causal:
            raise ValueError("LightNetAttention.scan: the module must be causal, got causal=False")
        q, k, v = self.split_heads(tokens)
        tables = self.tables(tokens.shape[1:2], q, 0, start)
        o, state = self.scan_heads(q, k, v, tables, None, state)
        return self.merge(o.flatten(2), tokens), state

    def split_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> silu(q), k, v, each (B, N, heads, C / heads)."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return F.silu(q), k, v

    def tables(self, grid: Sequence[int], q: Tensor, prefix: int, start: int = 0) -> Tables | None:
        if self.form == "none":
            return None
        return position_tables(grid, self.heads, q.shape[-1], self.form, q, prefix, start)

    def scan_heads(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tables: Tables | None,
        mask: Tensor | None,
        state: AdditiveState | None = None,
    ) -> tuple[Tensor, AdditiveState]:
        prior = self.unit_prior and state is None
        return additive_scan(
            q, k, v, scale=self.scale, unit_prior=prior, mask=mask, rope=tables, initial=state
        )

    def merge(self, o: Tensor, tokens: Tensor) -> Tensor:
        """Gate and norm, in the module's order, and the last projection: (B, N, C) twice -> (B, N, C)."""
        gate = GATES[self.gate_act](self.gate(tokens))
        o = self.norm(o * gate) if self.gate_first else self.norm(o) * gate
        return self.proj(o)


def _check_options(
    dim: int, heads: int, causal: bool, keys: str, form: str, gate: str, norm: str, unit_prior: bool
) -> None:
    owner = "LightNetAttention"
    words = {"keys": (keys, KEYS), "form": (form, FORMS), "gate": (gate, GATES), "norm": (norm, NORMS)}
    for name, (given, known) in words.items():
        check_word(owner, name, given, tuple(known))
    if heads < 1 or dim % heads:
        raise ValueError(f"{owner}: heads must divide dim={dim}, got {heads}")
    if causal and (form == "rotate" or keys == "silu"):
        raise ValueError(
            f"{owner}: causal needs keys='softmax' and form 'cosine' or 'none' (pairs of channels that decay "
            f"at different rates cannot turn), got keys={keys!r}, form={form!r}"
        )
    if unit_prior and not causal:
        raise ValueError(f"{owner}: unit_prior must be False unless causal, got True")
