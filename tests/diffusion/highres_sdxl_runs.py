"""Runs of the SD-XL rung tests: a tiny pipeline's words, a picture, a UNet spread by hand."""

import copy

import numpy as np
import torch
from PIL import Image
from torch import nn

PROMPT = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def words(tiny, **changes) -> dict:
    return {name: tiny.inputs[name] for name in PROMPT} | {"num_inference_steps": 5} | changes


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photograph(height: int = 16, width: int = 12) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([5 * y + x, 255 - 4 * x, (x * y) % 256], -1).astype(np.uint8))


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(np.asarray(i), np.asarray(j)) for i, j in zip(a, b, strict=True)
    )


def convolutions(unet: nn.Module) -> list:
    return [(m.dilation, m.padding) for m in unet.modules() if isinstance(m, nn.Conv2d)]


def wider(unet: nn.Module, ratio: int) -> nn.Module:
    """A copy of the UNet whose convolutions are built anew, spread by ``ratio``."""
    unet = copy.deepcopy(unet)
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                side = child.kernel_size[0]
                spread = nn.Conv2d(
                    child.in_channels, child.out_channels, side, stride=child.stride,
                    padding=(side // 2) * ratio, dilation=ratio, dtype=child.weight.dtype,
                )  # fmt: skip
                spread.load_state_dict(child.state_dict())
                setattr(module, name, spread)
    return unet
