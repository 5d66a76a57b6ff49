"""Small LightNet models and tensors for its tests."""

import timm
import torch

import linzoo.vision  # noqa: F401  registers the models

F64 = torch.float64
SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 2, "patch_size": 8, "num_classes": 5}


def small(**changes):
    torch.manual_seed(0)
    return timm.create_model("lightnet_tiny", **{**SMALL, **changes})


def randn(*shape, dtype=F64):
    return torch.randn(*shape, dtype=F64).to(dtype)


def lively(module):
    """Weights with which every part shows in the output."""
    for name, value in module.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        elif name.endswith("bias") or "log_decay" in name:
            torch.nn.init.normal_(value, std=0.3)
    return module.eval()


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
