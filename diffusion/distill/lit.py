"""LiT's objective, arXiv 2501.12976: DiT's own, beside the teacher.

    L = |e - n|^2 + L_vb + 0.5 |e - e_T|^2 + 0.05 |u - u_T|^2

e, u: the two halves of the prediction, noise and the raw numbers that interpolate the variance; e_T, u_T: the
teacher's; mean squares. L_vb: the variational bound in bits a dimension, with e held fixed, so that it trains
the variance only. The paper does not say whether u is compared raw: that is our choice.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .gaussian import LearnedVariance
from .objective import Batch, Objective, step_numbers


class LitObjective(Objective):
    """``scheduler`` is a DDPMScheduler; a model without the second half has no variance terms."""

    name = "lit"
    trains = "all"
    published = {"output": 0.5, "variance": 0.05}  # noqa: RUF012

    def noised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        timesteps = step_numbers(batch.places, self.scheduler.config.num_train_timesteps)
        return self.scheduler.add_noise(batch.clean, batch.noise, timesteps), timesteps

    def task(self, batch: Batch, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        noise, variance = halves(prediction, batch.clean.shape[1])
        terms = {"task": F.mse_loss(noise, batch.noise.float())}
        if variance is not None:
            law = LearnedVariance(self.scheduler.betas)
            bound = law.bound(batch.clean.float(), noisy.float(), timesteps, noise.detach(), variance)
            terms["bound"] = bound.mean()
        return terms

    def imitation(self, prediction: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        channels = self.denoiser.config.in_channels
        noise, variance = halves(prediction, channels)
        wanted_noise, wanted_variance = halves(wanted, channels)
        terms = {"output": F.mse_loss(noise, wanted_noise)}
        if variance is not None and wanted_variance is not None:
            terms["variance"] = F.mse_loss(variance, wanted_variance)
        return terms


def halves(prediction: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Noise and variance numbers, each (B, C, h, w); None for a model that predicts the noise only."""
    if prediction.shape[1] == channels:
        return prediction, None
    noise, variance = prediction.split(channels, dim=1)
    return noise, variance
