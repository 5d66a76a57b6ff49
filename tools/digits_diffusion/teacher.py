"""The softmax DiT that all students start from, trained by ``linzoo distill digits_teacher``; committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

WEIGHTS = Path(__file__).parents[1] / "weights" / "digits_dit"


def train_teacher(output: Path) -> None:
    """Train, or finish training, and replace the committed folder: the moving average, in float16."""
    from ..demo.context import one_thread
    from ..distill import parse
    from ..distillation.session import distill

    words = ["digits_teacher", "--output", str(output), "--experiment", "teacher", "--resume", "auto"]
    with one_thread():
        run = distill(parse([*words, "--device", "cpu", "--log-interval", "100"]))
    run.best.half().save_pretrained(WEIGHTS)
    run.scheduler.save_pretrained(WEIGHTS)


def load_teacher(folder: Path = WEIGHTS) -> tuple[nn.Module, Any]:
    """The teacher, frozen, in float32, and its training scheduler."""
    from diffusers import DDPMScheduler, DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    return model.requires_grad_(False).eval(), DDPMScheduler.from_pretrained(folder)
