"""Operators by name; users add theirs."""

from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from .gated import GatedBlock
from .linear import LinearBlock
from .mamba import MambaBlock
from .mlstm import MlstmBlock
from .retnet import RetNetBlock
from .rwkv import RwkvBlock
from .ttt import TttBlock

OPERATORS: dict[str, type[nn.Module]] = {
    "retnet": RetNetBlock,
    "mamba": MambaBlock,
    "rwkv": RwkvBlock,
    "mlstm": MlstmBlock,
    "xlstm": MlstmBlock,  # its upstream name
    "ttt": TttBlock,
    "linear": LinearBlock,
    "gated": GatedBlock,
}


def register_operator(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: ``make_operator(name, ...)``, and thus every LION layer, knows the class from then on.

    The class must be an ``nn.Module`` whose constructor takes ``(channels, *, layer_id, n_layer, drop_path)``
    and words of its own, and whose ``forward(x, cu_seqlens=None)`` maps (G, T, C) sequences to the same
    shape, or with ``cu_seqlens`` (S + 1,) int32 the segments packed in (1, N, C). ``Operator`` is a base
    that checks both. Raises ValueError for a name that is taken, TypeError for what is no such class.
    """

    def add(operator: type[nn.Module]) -> type[nn.Module]:
        if not (isinstance(operator, type) and issubclass(operator, nn.Module)):
            raise TypeError(f"register_operator: {name!r} must be a subclass of nn.Module, got {operator!r}")
        if name in OPERATORS:
            taken = OPERATORS[name].__name__
            raise ValueError(f"register_operator: name must be new, got {name!r}, which is {taken}")
        OPERATORS[name] = operator
        return operator

    return add


def make_operator(
    name: str, channels: int, layer_id: int, n_layer: int, *, drop_path: float = 0.0, **words: object
) -> nn.Module:
    """One block: ``words`` go to the class's constructor, which refuses those it does not know (TypeError).

    Args:
        name: a key of ``OPERATORS``.
        channels: C of the tokens.
        layer_id, n_layer: this block's place among the network's blocks, 0 first, and their number.
        drop_path: probability that a sequence leaves out a residual branch while training.
    Raises: ValueError for a name that does not exist, with the nearest that does.
    """
    if name not in OPERATORS:
        close = get_close_matches(str(name), list(OPERATORS), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"operator must be one of {tuple(OPERATORS)}, got {name!r}{hint}")
    return OPERATORS[name](channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path, **words)
