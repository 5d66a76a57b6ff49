"""One rung of LinFusion's SD-XL pipelines: a picture is noised, and denoised by two predictions a step.

The equations are in ``pieces.py``; all noise comes from ``generator``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from .conditioning import Conditioning
from .pieces import Statistics, blurred, cosine, dilated, mix, with_statistics
from .schedule import Tail

OnStepEnd = Callable[[int, Tensor, Tensor], Tensor]  # step, timestep, latents -> latents


@dataclass(frozen=True, kw_only=True, slots=True)
class RungOptions:
    """How a rung mixes its parts; the defaults are LinFusion's.

    Args:
        cosine_scale_1: exponent a of the skip residual.
        cosine_scale_2: exponent b of the dilated step's share.
        cosine_scale_3: exponent c of the blur's width.
        gaussian_sigma: s, widest blur, in latent positions; LinFusion's examples use 0.8.
    """

    cosine_scale_1: float = 3.0
    cosine_scale_2: float = 1.0
    cosine_scale_3: float = 1.0
    gaussian_sigma: float = 1.0

    def __post_init__(self) -> None:
        for name in (option.name for option in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not value >= 0 or (name == "gaussian_sigma" and value == 0):
                raise ValueError(f"{name} must be {'>' if name == 'gaussian_sigma' else '>='} 0, got {value}")


@dataclass(kw_only=True, slots=True)
class Rung:
    """A rung on its way.

    Args:
        clean: latents of the resized picture, (1, C, height, width).
        steps, strength: the last ceil(steps strength) of ``steps`` timesteps are walked.
        ratio: R, how much larger than the model's own size the picture is.
    """

    pipe: Any
    clean: Tensor
    conditioning: Conditioning
    steps: int
    strength: float
    ratio: int
    options: RungOptions
    generator: Any
    eta: float = 0.0
    tail: Tail = field(init=False)
    noise: Tensor = field(init=False)

    def __post_init__(self) -> None:
        from diffusers.utils.torch_utils import randn_tensor

        like = self.clean
        self.tail = Tail(self.pipe.scheduler, self.steps, self.strength, like.device)
        self.noise = randn_tensor(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def walk(self, anchor: Statistics, on_step_end: OnStepEnd | None = None) -> Tensor:
        """The latents of the finished rung; each channel has the anchor's mean and deviation."""
        latents = self.tail.noised(0, self.clean, self.noise)
        with self.pipe.progress_bar(total=self.tail.length) as bar:
            for i, t in enumerate(self.tail.timesteps):
                latents = self.step(i, latents)
                if on_step_end is not None:
                    latents = on_step_end(i, t, latents)
                bar.update()
        return with_statistics(latents, anchor)

    def step(self, i: int, latents: Tensor) -> Tensor:
        """From timestep i of the tail to the next."""
        t, options = self.tail.timesteps[i], self.options
        g = cosine(float(t), self.pipe.scheduler.config.num_train_timesteps)
        latents = mix(latents, self.tail.noised(i, self.clean, self.noise), g**options.cosine_scale_1)
        plain = self.stepped(i, latents, latents)
        sigma = options.gaussian_sigma * (0.99 * g**options.cosine_scale_3 + 0.01)
        with dilated(self.pipe.unet, self.ratio):
            wide = self.stepped(i, latents, blurred(latents, self.ratio, sigma))
        return mix(plain, wide, g**options.cosine_scale_2)

    def stepped(self, i: int, latents: Tensor, seen: Tensor) -> Tensor:
        """The scheduler's step from ``latents``, by the prediction that the model makes from ``seen``."""
        t = self.tail.rewind(i)
        prediction = self.conditioning.predict(self.pipe, seen, t)
        extra = self.pipe.prepare_extra_step_kwargs(self.generator, self.eta)
        return self.pipe.scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
