"""What every distillation objective is: noise a batch, call student and teacher, weigh the terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .denoisers import Denoiser
from .taps import Taps


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pictures and everything random about them.

    Args:
        clean: (B, C, h, w) latents, scaled as the model wants them.
        noise: standard normal, of their shape.
        places: (B,) from 0 to 1 (excluded): where on the way to noise, by rank among the training steps.
        conditions: what the pictures show; see ``denoisers``.
    """

    clean: Tensor
    noise: Tensor
    places: Tensor
    conditions: Mapping[str, Tensor]


class Objective(ABC):
    """A sum of weighted terms, all in float32.

    Args:
        denoiser: how student and teacher are called.
        scheduler: diffusers' training scheduler of the family.
        swapped: dotted names of the swapped modules.
        weights: of the terms beside the task's; a missing one has the published weight.
    """

    name: ClassVar[str]
    trains: ClassVar[str]  # "swapped": what the swap owns; "all": every parameter
    published: ClassVar[dict[str, float]]  # term -> weight

    def __init__(
        self,
        denoiser: Denoiser,
        scheduler: Any,
        swapped: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.denoiser, self.scheduler, self.swapped = denoiser, scheduler, tuple(swapped)
        given = {term: weight for term, weight in (weights or {}).items() if weight is not None}
        for term, weight in given.items():
            if term not in self.published:
                raise ValueError(
                    f"{term}_weight cannot be set: objective {self.name!r} has no such term, only "
                    f"{', '.join(self.published)}"
                )
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{term}_weight must be at least 0, got {weight}")
        self.weights = self.published | given

    def taps(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the modules whose outputs are compared with the teacher's."""
        return ()

    @abstractmethod
    def noised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noisy latents (B, C, h, w), and timesteps (B,) as the denoiser takes them."""

    @abstractmethod
    def task(self, batch: Batch, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        """The terms that need no teacher; they count as they are."""

    @abstractmethod
    def imitation(self, prediction: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """The terms against the teacher's prediction, by the names of their weights."""

    def losses(
        self, net: Callable[..., Any], student: nn.Module, teacher: nn.Module | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Every term unweighted, and their weighted sum as ``loss``.

        Args:
            net: what is called: the student, or what it is wrapped in.
            teacher: frozen, in evaluation mode; None: the task's terms only.
        """
        noisy, timesteps = self.noised(batch)
        wants_features = teacher is not None and bool(self.weights.get("feature"))
        names = self.taps(student) if wants_features else ()
        with Taps(student, names) as own:
            prediction = self.denoiser.predict(net, noisy, timesteps, batch.conditions).float()
        terms = self.task(batch, noisy, timesteps, prediction)
        loss = sum(terms.values())
        if teacher is not None:
            with torch.no_grad(), Taps(teacher, names) as theirs:
                wanted = self.denoiser.predict(teacher, noisy, timesteps, batch.conditions).float()
            against = self.imitation(prediction, wanted)
            if names:
                against["feature"] = feature_loss(own.features, theirs.features)
            loss = loss + sum(self.weights[term] * value for term, value in against.items())
            terms |= against
        return {"loss": loss} | terms


def feature_loss(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """The mean over modules of the mean squared difference."""
    differences = [F.mse_loss(feature.float(), theirs[name].float()) for name, feature in own.items()]
    return torch.stack(differences).mean()


def step_numbers(places: Tensor, steps: int) -> Tensor:
    """Uniform places -> (B,) whole numbers below ``steps``."""
    return (places * steps).long().clamp(max=steps - 1)


def objective_names() -> tuple[str, ...]:
    """What ``objective_of`` takes."""
    return "linfusion", "clear", "lit"


def objective_of(name: str) -> type[Objective]:
    """Raises: ValueError for a name that there is not, with the nearest."""
    from .clear import ClearObjective
    from .linfusion import LinFusionObjective
    from .lit import LitObjective

    known = {cls.name: cls for cls in (LinFusionObjective, ClearObjective, LitObjective)}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"objective must be one of {', '.join(known)}, got {name!r}{hint}")
    return known[name]
