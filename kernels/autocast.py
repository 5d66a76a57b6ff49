"""Autocast around the ops: tokens take its dtype, inside the kernels choose their own precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def as_autocast(x: Tensor) -> Tensor:
    """Tokens in autocast's dtype where it is on; float64 stays. Not for weights, gates and states."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(kind))


def exactly(x: Tensor) -> AbstractContextManager:
    """Within: no autocast on the device of ``x``."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
