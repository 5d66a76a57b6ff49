"""Losses of scores against loops over cells in plain numbers, and recorded figures."""

import math

import pytest
import torch

from linzoo.pointcloud.losses import gaussian_focal_loss, sigmoid_focal_loss, sum_over_objects


def gaussian_focal_by_loops(logits: torch.Tensor, target: torch.Tensor) -> float:
    total, objects = 0.0, 0
    for logit, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-logit)), 1e-4), 1 - 1e-4)
        if t == 1:
            total -= (1 - p) ** 2 * math.log(p)
            objects += 1
        else:
            total -= (1 - t) ** 4 * p**2 * math.log(1 - p)
    return total / max(objects, 1)


@pytest.mark.parametrize("objects", [0, 1, 5])
def test_the_heat_map_loss_is_a_loop_over_cells(objects):
    logits = 4 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    target = 0.99 * torch.rand(2, 3, 4, 5, dtype=torch.float64)
    target.flatten()[:objects] = 1
    expected = gaussian_focal_by_loops(logits, target)
    assert gaussian_focal_loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_extreme_heat_map_logits_give_a_finite_loss():
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = gaussian_focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(100_000, dtype=torch.float16)
    loss = gaussian_focal_loss(logits, torch.zeros(100_000))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(100_000 * 0.25 * math.log(2), rel=1e-4)


def test_the_class_loss_is_a_loop_over_scores():
    logits, target = 3 * torch.randn(40, dtype=torch.float64), torch.rand(40) < 0.5
    for got, logit, t in zip(
        sigmoid_focal_loss(logits, target), logits.tolist(), target.tolist(), strict=True
    ):
        p = 1 / (1 + math.exp(-logit))
        right, alpha = (p, 0.25) if t else (1 - p, 0.75)
        assert got.item() == pytest.approx(-alpha * (1 - right) ** 2 * math.log(right), rel=1e-10)


def test_extreme_class_logits_give_finite_losses_and_gradients():
    logits = torch.tensor([-300.0, 300.0, -300.0, 300.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 1, 1, 0]))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 0.0, 75.0, 225.0]))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [gaussian_focal_loss, sigmoid_focal_loss])
def test_the_gradients_are_the_losses_slopes(loss):
    logits = torch.randn(8, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


def test_errors_are_weighted_a_code_and_divided_by_the_number_of_objects():
    error = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert sum_over_objects(error, torch.tensor([1.0, 0.5])).item() == (1 + 1 + 3 + 2) / 2
    assert sum_over_objects(torch.zeros(0, 2)).item() == 0
