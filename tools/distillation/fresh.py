"""Models with random weights, a DiT's drawn as the DiT repository draws them."""

from __future__ import annotations

import torch
from torch import nn


def fresh_model(like: nn.Module) -> nn.Module:
    """A model of ``like``'s config. A DiT starts as the identity; other classes as diffusers makes them."""
    model = type(like).from_config(like.config)
    if type(like).__name__ == "DiTTransformer2DModel":
        start_dit(model)
    return model


@torch.no_grad()
def start_dit(model: nn.Module) -> None:
    """Xavier for linear layers (the patches' too), 0.02 for embeddings, zero for modulation and output."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if ".timestep_embedder." in name:
                nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
            nn.init.zeros_(module.bias)
    silent = [block.norm1.linear for block in model.transformer_blocks]
    for layer in (*silent, model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
