"""Whether sizes may be compared."""

import torch


def sizes_are_symbols() -> bool:
    """Whether the run is exported or traced: a branch on a size would be taken for every other size too."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
