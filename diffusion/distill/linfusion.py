"""LinFusion's objective, arXiv 2409.02097.

    L = |y - target|^2 + 0.5 |y - y_T|^2 + 0.5 mean_m |a_m - a_T,m|^2

y: the student's prediction, y_T: the teacher's (mean squares); target: the noise, or the velocity for models
that predict it. a_m: output of swapped self-attention m, each network on its own activations. Timesteps are
uniform over all training steps, nothing is weighted by them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .objective import Batch, Objective, step_numbers


class LinFusionObjective(Objective):
    """``scheduler`` is a DDPMScheduler; its ``prediction_type`` says what the target is."""

    name = "linfusion"
    trains = "swapped"
    published = {"output": 0.5, "feature": 0.5}  # noqa: RUF012

    def taps(self, model: nn.Module) -> tuple[str, ...]:
        return self.swapped

    def noised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        timesteps = step_numbers(batch.places, self.scheduler.config.num_train_timesteps)
        return self.scheduler.add_noise(batch.clean, batch.noise, timesteps), timesteps

    def task(self, batch: Batch, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            target = batch.noise
        elif kind == "v_prediction":
            target = self.scheduler.get_velocity(batch.clean, batch.noise, timesteps)
        else:
            raise ValueError(f"the teacher must predict epsilon or v_prediction, its scheduler says {kind}")
        return {"task": F.mse_loss(prediction, target.float())}

    def imitation(self, prediction: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        return {"output": F.mse_loss(prediction, wanted)}
