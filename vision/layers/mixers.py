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
_RESERVED = ("linear",)  # stands for a family's own mixer; "softmax" does too, and is taken below


def register_mixer(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: makes a mixer class known as ``name``. A name can be taken once.

    Raises: TypeError for a name that is no string, and for a class that is no nn.Module or does not say
        whether it uses_rope; ValueError for a name that is empty, reserved or taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"register_mixer: name must be a string, got {name!r}")
    if not name or name in _RESERVED:
        raise ValueError(
            f"register_mixer: name must not be empty or stand for a family's own mixer, got {name!r}"
        )

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        if _MIXERS.get(name, cls) is not cls:
            raise ValueError(
                f"register_mixer: name {name!r} is already taken by {_MIXERS[name].__qualname__}"
            )
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"register_mixer: {name!r} must be a subclass of nn.Module, got {cls!r}")
        if not isinstance(getattr(cls, "uses_rope", None), bool):
            raise TypeError(
                f"register_mixer: {cls.__qualname__} must have a class attribute uses_rope, True or False, "
                f"got {getattr(cls, 'uses_rope', 'none')!r}"
            )
        _MIXERS[name] = cls
        return cls

    return add


def mixer_names() -> tuple[str, ...]:
    """Names of the registered mixers, sorted."""
    return tuple(sorted(_MIXERS))


def check_mixer_name(name: str, also: tuple[str, ...] = ()) -> str:
    """``name`` when it is registered or in ``also``; otherwise a ValueError, see ``check_listed``."""
    return check_listed(name, (*also, *(n for n in mixer_names() if n not in also)))


def check_listed(name: str, known: tuple[str, ...]) -> str:
    """``name`` when it is in ``known``; otherwise a ValueError that suggests the nearest, if one is near."""
    if name in known:
        return name
    near = get_close_matches(name, known, n=1, cutoff=0.4) if isinstance(name, str) else ()
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"mixers: must be among {', '.join(known)}, got {name!r}{hint}")


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
    Raises: ValueError for an unknown name (one that is near is suggested) or heads that do not divide dim.
    """
    check_mixer_name(name)
    if heads < 1 or dim % heads:
        raise ValueError(f"make_mixer: heads must divide dim={dim}, got {heads}")
    return _MIXERS[name](dim, heads, device=device, dtype=dtype)
