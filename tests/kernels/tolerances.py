"""How far a result may be from float64, by dtype of the inputs: the one table of the kernel tests."""

import torch
from torch import Tensor

# Relative l2 error against float64 on the same (rounded) inputs.
RELATIVE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
SIGNED = 1e-3  # mean signed error over the mean size: rounding averages out, truncation does not


def relative_error(got: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double()
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-30)).item()


def assert_close(got: Tensor, wanted: Tensor, dtype: torch.dtype, what: str = "", slack: float = 1.0) -> None:
    """``slack`` widens the table's figure where the mathematics cancels; say why at the call."""
    assert got.shape == wanted.shape, f"{what}: shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    error = relative_error(got, wanted)
    assert error <= slack * RELATIVE[dtype], (
        f"{what}: relative error {error:.1e}, allowed {RELATIVE[dtype]:.0e}"
    )
