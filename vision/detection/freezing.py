"""Freezing the stem and the first stages of a timm feature extractor."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from torch import nn


def stage_names(body: nn.Module) -> list[str]:
    """Names within timm's ``features_only`` model of its stages; what has stride 2 belongs to the stem."""
    inside = dict(body.named_modules())
    names = []
    for info in body.feature_info.info:
        if info["reduction"] > 2:
            module = info["module"]  # as in the model; timm's list of modules flattens "stages.0"
            candidates = (f"model.{module}", module, module.replace(".", "_"))
            names.append(next((name for name in candidates if name in inside), module))
    return names


def frozen_modules(body: nn.Module, stages: int) -> list[nn.Module]:
    """Modules, in their order, before the first stage that stays trainable.

    Args:
        stages: -1: nothing; 0: the stem; n: the stem and n stages.
    Raises: ValueError for another count, and for a model whose stages are not modules of their own.
    """
    names = stage_names(body)
    if type(stages) is not int or not -1 <= stages <= len(names):
        raise ValueError(
            f"LinzooBackbone: frozen_stages must be -1 (none), 0 (the stem) or up to {len(names)} stages, "
            f"got {stages!r}"
        )
    if stages == -1:
        return []
    inside = dict(body.named_modules())
    absent = [name for name in names if name not in inside]
    if absent:
        raise ValueError(
            f"LinzooBackbone: frozen_stages must be -1 for a model without a module {absent[0]!r}"
        )
    trainable = names[stages:]
    before = _before(inside, trainable)
    return [inside[name] for name in before if not _holds(name, trainable)]


def freeze(body: nn.Module, stages: int) -> None:
    """No gradients for what ``frozen_modules`` names, nor for the model's own tables before it."""
    if stages >= 0:
        parameters = dict(body.named_parameters())
        for name in _before(parameters, stage_names(body)[stages:]):
            parameters[name].requires_grad_(False)


def _before(names: Iterable[str], stages: Sequence[str]) -> Iterator[str]:
    """``names`` up to the first that is one of ``stages`` or within one."""
    return takewhile(lambda name: not any(name == s or name.startswith(f"{s}.") for s in stages), names)


def _holds(name: str, stages: Sequence[str]) -> bool:
    """Whether the module called ``name`` holds one of ``stages``, so that it is not frozen as a whole."""
    return any(name == "" or stage.startswith(f"{name}.") for stage in stages)
