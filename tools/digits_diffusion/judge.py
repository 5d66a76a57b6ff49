"""What is said of a model of digits: beside real digits, beside the teacher, and as a sheet to look at."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .data import load_digits
from .features import load_features, share_right
from .measures import frechet_distance, noise_errors, noisy_digits
from .students import draw, sheet, sheet_labels
from .teacher import load_teacher


class Judge:
    """The teacher, the digits and the feature space.

    Args:
        settings: ``sample_steps``; ``noise_rounds``, held-out digits for each of the 1,000 timesteps;
            ``sheet_rows``, ``sheet_guidance``.
    """

    def __init__(self, settings: dict) -> None:
        self.settings = settings
        self.teacher, self.scheduler = load_teacher()
        self.data, self.features = load_digits(), load_features()
        alphas = self.scheduler.alphas_cumprod
        self.noisy = noisy_digits(self.teacher, alphas, self.data, settings["noise_rounds"])

    def judge(self, model: nn.Module, seed: int) -> dict:
        """Of a picture of each held-out digit's class, drawn without guidance from the seed's noise."""
        labels = self.data.held_out_labels
        steps = self.settings["sample_steps"]
        drawn = draw(model, self.scheduler, labels, steps=steps, guidance=1.0, seed=seed)
        return self.compared(drawn, labels) | self.errors(model)

    def errors(self, model: nn.Module) -> dict:
        found = noise_errors(model, self.noisy)
        return {"teacher_error": found["teacher"], "noise_error": found["noise"]}

    def compared(self, drawn: Tensor, labels: Tensor) -> dict:
        """With all training digits."""
        return {
            "distance": frechet_distance(self.features, self.data.train, drawn),
            "read_as_asked": share_right(self.features, drawn.double(), labels),
            "pictures": len(drawn),
        }

    def real(self) -> dict:
        """The held-out digits in the place of a model's pictures."""
        return self.compared(self.data.held_out, self.data.held_out_labels)

    def sheet(self, model: nn.Module) -> Any:
        """uint8 pixels: every class in a column; the noise is the same for every model."""
        labels = sheet_labels(self.settings["sheet_rows"])
        steps, guidance = self.settings["sample_steps"], self.settings["sheet_guidance"]
        return sheet(draw(model, self.scheduler, labels, steps=steps, guidance=guidance, seed=0))
