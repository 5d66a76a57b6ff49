"""Token mixers by name: the registry behind ``mixers=``.

A mixer is an ``nn.Module`` built as ``Mixer(dim, heads, *, device=None, dtype=None)`` with
``forward(x: (B, H, W, C), rope: (cos, sin) | None) -> (B, H, W, C)`` and a class attribute ``uses_rope``.
Tables are (H * W, C / heads); a class attribute ``rope_copies`` asks for as many copies side by side.
"""

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import nn

_MIXERS: dict[str, type[nn.Module]] = {}


def register_mixer(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: makes a mixer class known as ``name``. A name can be taken once."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        if _MIXERS.get(name, cls) is not cls:
            raise ValueError(
                f"register_mixer: name {name!r} is already taken by {_MIXERS[name].__qualname__}"
            )
        _MIXERS[name] = cls
        return cls

    return add


def mixer_names() -> tuple[str, ...]:
    """Names of the registered mixers, sorted."""
    return tuple(sorted(_MIXERS))


def check_mixer_name(name: str, also: tuple[str, ...] = ()) -> str:
    """``name`` when it is registered or in ``also``; otherwise a ValueError that suggests the nearest."""
    known = (*also, *(n for n in mixer_names() if n not in also))
    if name in known:
        return name
    near = get_close_matches(str(name), known, n=1, cutoff=0.0)
    raise ValueError(f"mixers: must be among {', '.join(known)}, got {name!r}; did you mean {near[0]!r}?")


def make_mixer(
    name: str,
    dim: int,
    heads: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Builds the mixer registered as ``name``.

    Args:
        name: see ``mixer_names()``.
        dim: channels.
        heads: must divide dim.
    Raises: ValueError for an unknown name (the nearest is suggested) or heads that do not divide dim.
    """
    check_mixer_name(name)
    if heads < 1 or dim % heads:
        raise ValueError(f"make_mixer: heads must divide dim={dim}, got {heads}")
    return _MIXERS[name](dim, heads, device=device, dtype=dtype)
