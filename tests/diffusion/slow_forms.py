"""The swapped attentions written from the papers' formulas, as diffusers processors for an unswapped model.

Each is quadratic, works with dense matrices in float64 and takes nothing from the library but the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlowForm:
    """A processor that reads ``weights`` (the swapped module's state dict) and no child of ``attn``."""

    def __init__(self, module: nn.Module, heads: int, grid: tuple[int, int]):
        self.weights = {name: tensor.detach().double() for name, tensor in module.state_dict().items()}
        self.heads, self.grid = heads, grid

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def split(self, x: Tensor) -> Tensor:  # (B, N, C) -> (B, H, N, D)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def by_scores(scores: Tensor, v: Tensor, eps: float) -> Tensor:
    """(B, H, N, M) of non-negative scores and (B, H, M, D) -> (B, N, H D)."""
    out = scores @ v / (scores.sum(-1, keepdim=True) + eps)
    return out.transpose(1, 2).flatten(2)


class LinFusionForm(SlowForm):
    """phi = elu + 1 of projections of x + mlp(x); eps 1e-4 on means, N 1e-4 on sums (arXiv 2409.02097)."""

    def mlp(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self.weights[f"{name}.1.weight"], self.weights[f"{name}.1.bias"]
        hidden = F.layer_norm(self.linear(f"{name}.0", x), scale.shape, scale, shift)
        return self.linear(f"{name}.3", F.leaky_relu(hidden))

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *_, **__) -> Tensor:
        x = hidden_states.double()
        q = F.elu(self.split(self.linear("to_q", x + self.mlp("to_q_", x)))) + 1
        k = F.elu(self.split(self.linear("to_k", x + self.mlp("to_k_", x)))) + 1
        v = self.split(self.linear("to_v", x))
        out = by_scores(q @ k.mT, v, 1e-4 * x.shape[1])
        return self.linear("to_out.0", out).to(hidden_states.dtype)


class LitForm(SlowForm):
    """phi = relu, and a depth-wise 5 x 5 convolution of v added before the projection (arXiv 2501.12976)."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *_, **__) -> Tensor:
        x = hidden_states.double()
        q, k = (F.relu(self.split(self.linear(name, x))) for name in ("to_q", "to_k"))
        v = self.linear("to_v", x)
        out = by_scores(q @ k.mT, self.split(v), 1e-6)
        image = v.mT.unflatten(-1, self.grid)  # (B, C, height, width)
        weight, bias = self.weights["conv.weight"], self.weights["conv.bias"]
        near = F.conv2d(image, weight, bias, padding=2, groups=v.shape[-1])
        return self.linear("to_out.0", out + near.flatten(2).mT).to(hidden_states.dtype)


class ClearForm(SlowForm):
    """Softmax within a disc of the image; text sees and is seen by everything (arXiv 2412.16112)."""

    def __init__(self, module: nn.Module, heads: int, grid: tuple[int, int], radius: int, text_first: bool):
        super().__init__(module, heads, grid)
        self.radius, self.text_first = radius, text_first

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights.get(f"{name}.weight")
        return x if weight is None else F.rms_norm(x, weight.shape, weight, 1e-6)

    def project(self, x: Tensor, names: tuple[str, str, str], norms: tuple[str, str]) -> list[Tensor]:
        q, k, v = (self.split(self.linear(name, x)) for name in names)
        return [self.norm(norms[0], q), self.norm(norms[1], k), v]

    def allowed(self, tokens: int) -> Tensor:
        """(S, S) bool: may query i see key j?"""
        height, width = self.grid
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        y, x = y.flatten(), x.flatten()
        near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < self.radius**2
        allowed = torch.ones(tokens, tokens, dtype=torch.bool)
        image = slice(tokens - len(y), None) if self.text_first else slice(0, len(y))
        allowed[image, image] = near
        return allowed

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~self.allowed(q.shape[2]), -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


IMAGE, TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


class FluxClearForm(ClearForm):
    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ):
        dtype, text = hidden_states.dtype, encoder_hidden_states
        q, k, v = self.project(hidden_states.double(), IMAGE, ("norm_q", "norm_k"))
        if text is not None:
            ours = self.project(text.double(), TEXT, ("norm_added_q", "norm_added_k"))
            q, k, v = (torch.cat(pair, dim=2) for pair in zip(ours, (q, k, v), strict=True))
        out = self.attend(rotated(q, image_rotary_emb), rotated(k, image_rotary_emb), v)
        if text is None:  # a single block projects it itself
            return out.to(dtype)
        image, words = out[:, text.shape[1] :], out[:, : text.shape[1]]
        return self.linear("to_out.0", image).to(dtype), self.linear("to_add_out", words).to(dtype)


def rotated(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Neighbouring channels are one complex number; the tables hold each angle twice."""
    cos, sin = (table.double()[:, ::2] for table in tables)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(3)


class Sd3ClearForm(ClearForm):
    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, *_, **__):
        dtype, tokens = hidden_states.dtype, hidden_states.shape[1]
        ours = self.project(hidden_states.double(), IMAGE, ("norm_q", "norm_k"))
        text = self.project(encoder_hidden_states.double(), TEXT, ("norm_added_q", "norm_added_k"))
        out = self.attend(*(torch.cat(pair, dim=2) for pair in zip(ours, text, strict=True)))
        words = out[:, tokens:]
        if not attn.context_pre_only:
            words = self.linear("to_add_out", words)
        return self.linear("to_out.0", out[:, :tokens]).to(dtype), words.to(dtype)


class DitClearForm(ClearForm):
    """An image alone: no text, no rotation."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *_, **__) -> Tensor:
        out = self.attend(*self.project(hidden_states.double(), IMAGE, ("norm_q", "norm_k")))
        return self.linear("to_out.0", out).to(hidden_states.dtype)


def install(model: nn.Module, handle, form: Callable[[nn.Module], SlowForm]) -> None:
    """Give the unswapped ``model`` the slow form of each module that ``handle`` swapped in its twin."""
    for name, module in handle.modules.items():
        model.get_submodule(name).set_processor(form(module))


@torch.no_grad()
def disturb(handle, size: float = 0.05) -> None:
    """Move every swapped parameter a little: nothing is zero or as inherited any more."""
    noise = torch.Generator().manual_seed(11)
    for parameter in handle.parameters().values():
        parameter += size * torch.randn(parameter.shape, generator=noise).to(parameter)
