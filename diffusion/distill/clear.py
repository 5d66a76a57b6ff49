"""CLEAR's objective, arXiv 2412.16112: flow matching, beside the teacher.

    x_s = (1 - s) x + s n
    L = |v - (n - x)|^2 + 0.5 |v - v_T|^2 + 0.5 mean_l |a_l - a_T,l|^2

v: the student's velocity at noise level s, v_T: the teacher's. a_l: for FLUX, the attention output of every
fourth block before its output projection, counted over joint and single blocks together, single blocks only
(ten of FLUX's 38), text and image tokens alike. SD3 has no single blocks: there every fourth joint block's
attention output, after its projections, is ours. Noise levels are the scheduler's, drawn uniformly by rank.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .objective import Batch, Objective, step_numbers

EVERY = 4


class ClearObjective(Objective):
    """``scheduler`` is a FlowMatchEulerDiscreteScheduler, never set to fewer steps."""

    name = "clear"
    trains = "swapped"
    published = {"output": 0.5, "feature": 0.5}  # noqa: RUF012

    def taps(self, model: nn.Module) -> tuple[str, ...]:
        joint = len(model.transformer_blocks)
        single = len(getattr(model, "single_transformer_blocks", ()))
        names = [
            f"single_transformer_blocks.{i}.attn" for i in range(single) if (joint + i) % EVERY == 0
        ] or [f"transformer_blocks.{i}.attn" for i in range(joint) if not single and i % EVERY == 0]
        if not names:
            raise ValueError(
                f"feature_weight must be 0: none of the {joint} + {single} blocks is compared (every "
                f"{EVERY}th, single blocks only)"
            )
        return tuple(names)

    def levels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noise levels (B, 1, 1, 1) and timesteps (B,) of the places."""
        numbers = step_numbers(batch.places, self.scheduler.config.num_train_timesteps).cpu()
        levels = self.scheduler.sigmas[numbers].to(batch.clean)
        return levels[:, None, None, None], self.scheduler.timesteps[numbers].to(batch.clean)

    def noised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        levels, timesteps = self.levels(batch)
        return (1 - levels) * batch.clean + levels * batch.noise, timesteps

    def task(self, batch: Batch, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        return {"task": F.mse_loss(prediction, (batch.noise - batch.clean).float())}

    def imitation(self, prediction: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        return {"output": F.mse_loss(prediction, wanted)}
