"""Feature maps phi, and the rotation that the numerator of linear attention applies after them."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..checks import check_word
from ..transforms import derivatives_are_transformed

FEATURES = ("identity", "elu1", "relu")


def feature_map(x: Tensor, feature: str) -> Tensor:
    """phi(x), same shape and dtype.

    ``elu1`` is elu(x) + 1 written as exp(min(x, 0)) + max(x, 0): exact, needs no expm1 (five times the price
    of exp on a CPU), cannot overflow. Its gradient keeps only ``x``.

    Args:
        x: any shape, floating point.
        feature: "identity", "elu1" or "relu".
    Raises: ValueError for another word.
    """
    check_word("feature_map", "feature", feature, FEATURES)
    if feature == "identity":
        return x
    if feature == "relu":
        return x.relu()
    if torch.compiler.is_compiling() or derivatives_are_transformed():  # they choose what to keep
        return _elu1_by_autograd(x)
    return _Elu1.apply(x)


def _elu1_by_autograd(x: Tensor) -> Tensor:
    """elu(x) + 1 in operators whose derivatives are right at 0 too: those of two clamps add up to 0 there."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return x.clamp(max=0).exp() + x.clamp(min=0)  # no gradients, and six times faster in onnxruntime
    above = x > 0
    return torch.where(above, x + 1, x.masked_fill(above, 0).exp())


class _Elu1(torch.autograd.Function):
    """Keeps x alone; autograd would keep three tensors of its size. Twice differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(max=0).exp_().add_(x.clamp(min=0))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.clamp(max=0).exp()


def quarter_turn(x: Tensor) -> Tensor:
    """(x_0, x_1) -> (-x_1, x_0) for each pair of the last axis; an odd last channel becomes 0."""
    odd_width = x.shape[-1] % 2
    even, odd = (x[..., :-1] if odd_width else x).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), -1).flatten(-2)
    return F.pad(turned, (0, 1)) if odd_width else turned


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (2j, 2j + 1) of the last axis of ``x`` (..., N, H, D) by tables (N, H or 1, D).

    out_{2j} = x_{2j} cos - x_{2j+1} sin,  out_{2j+1} = x_{2j+1} cos + x_{2j} sin, in the tables' precision.
    """
    return torch.addcmul(x * cos, quarter_turn(x).to(sin.dtype), sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``rotated`` by the same tables (N, D) for every head."""
    return rotated(x, cos.unsqueeze(-2), sin.unsqueeze(-2))
