"""The reverse step of a diffusion whose variance is learned between two bounds, as DiT trains it.

    log s = f log beta_t + (1 - f) log beta~_t,  f = (u + 1) / 2

u is what the network puts out; beta~ is the variance of q(x_{t-1} | x_t, x_0). Improved DDPM, arXiv
2102.09672; everything in nats until ``bound`` turns it into bits a dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LearnedVariance:
    """Args: betas: (T,), the noise added by each training step."""

    def __init__(self, betas: Tensor) -> None:
        betas = betas.double().cpu()
        alphas = torch.cumprod(1 - betas, 0)
        before = torch.cat([alphas.new_ones(1), alphas[:-1]])
        posterior = betas * (1 - before) / (1 - alphas)
        self.log_betas = betas.log()
        self.log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log()  # step 0 has none: step 1's
        self.from_clean = betas * before.sqrt() / (1 - alphas)
        self.from_noisy = (1 - before) * (1 - betas).sqrt() / (1 - alphas)
        self.to_clean, self.to_noise = alphas.rsqrt(), (1 / alphas - 1).sqrt()

    def at(self, table: Tensor, timesteps: Tensor) -> Tensor:
        return table[timesteps.cpu()].float().to(timesteps.device)[:, None, None, None]

    def step(self, clean: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0)."""
        return self.at(self.from_clean, timesteps) * clean + self.at(self.from_noisy, timesteps) * noisy

    def bound(self, clean: Tensor, noisy: Tensor, timesteps: Tensor, noise: Tensor, raw: Tensor) -> Tensor:
        """(B,) bits a dimension: KL(q || p), at step 0 the likelihood of the picture in 256 grey levels.

        Args:
            noise: the predicted noise; it gives the mean.
            raw: u above.
        """
        low, high = self.at(self.log_posterior, timesteps), self.at(self.log_betas, timesteps)
        part = (raw + 1) / 2
        log_variance = part * high + (1 - part) * low
        guess = self.at(self.to_clean, timesteps) * noisy - self.at(self.to_noise, timesteps) * noise
        mean = self.step(guess, noisy, timesteps)
        divergence = kl(self.step(clean, noisy, timesteps), low, mean, log_variance)
        likelihood = grey_level_likelihood(clean, mean, log_variance / 2)
        first = (timesteps == 0)[:, None, None, None]
        return torch.where(first, -likelihood, divergence).flatten(1).mean(1) / math.log(2)


def kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence of two normals, elementwise."""
    difference = log_variance - other_log_variance
    distance = (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    return 0.5 * (torch.exp(difference) - 1 - difference + distance)


def grey_level_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of the grey level around x, of 256 from -1 to 1; the outermost reach to infinity."""
    centred, scale = x - mean, torch.exp(-log_deviation)
    above, below = normal_cdf(scale * (centred + 1 / 255)), normal_cdf(scale * (centred - 1 / 255))
    inner = (above - below).clamp(min=1e-12).log()
    lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inner))


def normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation that DiT's training code uses; at most 5e-4 away from erf's."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
