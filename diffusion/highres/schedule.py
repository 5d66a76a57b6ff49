"""A scheduler whose step can be taken twice from the same timestep, as LinFusion's rungs do."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

# What schedulers keep from one step for the next; two steps from one timestep would mix it up.
HISTORY = ("model_outputs", "ets", "derivatives", "prev_derivative", "last_sample", "cur_model_output")


def check_scheduler(scheduler: Any) -> None:
    """Raises: ValueError when two steps from one timestep are not the scheduler's to take."""
    name = type(scheduler).__name__
    kept = [word for word in HISTORY if hasattr(scheduler, word)]
    if getattr(scheduler, "order", 1) != 1 or kept:
        why = f"keeps {kept[0]} between steps" if kept else f"has order {scheduler.order}"
        raise ValueError(
            f"scheduler must take each step from its timestep alone (EulerDiscreteScheduler, DDIMScheduler, "
            f"EulerAncestralDiscreteScheduler, DDPMScheduler), got {name}, which {why}. Set "
            "pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)"
        )
    missing = [word for word in ("add_noise", "scale_model_input", "step") if not hasattr(scheduler, word)]
    if missing or "num_train_timesteps" not in scheduler.config:
        what = missing[0] if missing else "num_train_timesteps in its config"
        raise ValueError(f"scheduler must have {what}, got {name}")


class Tail:
    """The last ceil(steps strength) timesteps of a schedule, each of which can be stepped from repeatedly."""

    def __init__(self, scheduler: Any, steps: int, strength: float, device: Any) -> None:
        check_scheduler(scheduler)
        scheduler.set_timesteps(steps, device=device)
        self.scheduler = scheduler
        # the product of two decimal fractions may lie a rounding above a whole number
        self.length = math.ceil(round(steps * strength, 9))
        if not 1 <= self.length <= len(scheduler.timesteps):
            raise ValueError(
                f"strength must leave 1 to {steps} of {steps} steps, got {strength}: {self.length} steps"
            )
        self.start = len(scheduler.timesteps) - self.length
        self.timesteps: Tensor = scheduler.timesteps[self.start :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.start)

    def rewind(self, i: int) -> Tensor:
        """Timestep i of the tail; the scheduler's next step starts from there."""
        if hasattr(self.scheduler, "_step_index"):
            self.scheduler._step_index = self.start + i
        return self.timesteps[i]

    def noised(self, i: int, clean: Tensor, noise: Tensor) -> Tensor:
        """``clean`` with as much of ``noise`` as timestep i has."""
        t = self.rewind(i)
        return self.scheduler.add_noise(clean, noise, t.reshape(1))
