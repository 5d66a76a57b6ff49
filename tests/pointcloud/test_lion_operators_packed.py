"""Sequences are independent: rows, segments packed without padding, dropped branches."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from linzoo.pointcloud.lion.operators.drop_path import DropPath
from linzoo.pointcloud.lion.operators.packed import CausalConv, places, shifted

from .lion_operator_cases import CHANNELS, WORDS, small, tokens

EDGES = (
    0,
    0,
    70,
    71,
    71,
    74,
    95,
    95,
)  # no tokens, more than RetNet's block of 64, one token, no multiple of 16


def cu(*edges: int) -> torch.Tensor:
    return torch.tensor(edges, dtype=torch.int32)


def with_gradient(model: nn.Module, x: torch.Tensor, *words: torch.Tensor):
    x = x.clone().requires_grad_()
    y = model(x, *words)
    probe = torch.arange(y.numel(), dtype=y.dtype).sin().view_as(y)
    return y, probe, x


@pytest.mark.parametrize("name", WORDS)
def test_packed_segments_equal_separate_calls_forward_and_backward(name):
    model, x = small(name), tokens(1, EDGES[-1])
    y, probe, own = with_gradient(model, x, cu(*EDGES))
    (y * probe).sum().backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for a, b in pairwise(EDGES):
        if a < b:
            part = x[:, a:b].clone().requires_grad_()
            alone = model(part)
            torch.testing.assert_close(y[:, a:b], alone, rtol=1e-9, atol=1e-9)
            (alone * probe[:, a:b]).sum().backward()
            torch.testing.assert_close(own.grad[:, a:b], part.grad, rtol=1e-8, atol=1e-8)
    for p, grad in zip(model.parameters(), packed, strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", WORDS)
def test_rows_do_not_meet(name):
    model, x = small(name), tokens(3, 37)
    y = model(x)
    for g in range(3):
        torch.testing.assert_close(y[g : g + 1], model(x[g : g + 1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WORDS)
def test_every_token_of_a_sequence_but_no_other_reaches_its_outputs_where_the_operator_looks(name):
    x = tokens(1, 24).requires_grad_()
    model = small(name)
    y = model(x, cu(0, 20, 24))
    ahead = torch.autograd.grad(y[0, 3].square().sum(), x, retain_graph=True)[0][0].abs().sum(-1)
    behind = torch.autograd.grad(y[0, 19].square().sum(), x)[0][0].abs().sum(-1)
    assert ahead[20:].max() == 0 and behind[20:].max() == 0
    assert (behind[:20] > 0).all()
    # TTT alone is causal: RetNet sees ahead within its block, the others scan both ways or have no order
    assert (ahead[4:20] > 0).all() == (name != "ttt")


@pytest.mark.parametrize("name", WORDS)
def test_no_groups_and_no_tokens_come_back_as_they_are(name):
    model = small(name, torch.float32)
    for shape in ((0, 8, CHANNELS), (1, 0, CHANNELS)):
        assert model(torch.zeros(shape)).shape == shape
    assert model(torch.zeros(1, 0, CHANNELS), cu(0, 0)).shape == (1, 0, CHANNELS)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_shifts_stop_at_the_ends_of_sequences(reverse):
    x = torch.arange(1.0, 8.0).view(1, 7, 1)
    offsets = cu(0, 0, 3, 3, 4, 7)
    place = places(x, offsets, reverse)
    assert place.tolist() == ([2, 1, 0, 0, 2, 1, 0] if reverse else [0, 1, 2, 0, 0, 1, 2])
    wanted = {
        (False, 1): [0, 1, 2, 0, 0, 5, 6],
        (False, 2): [0, 0, 1, 0, 0, 0, 5],
        (True, 1): [2, 3, 0, 0, 6, 7, 0],
        (True, 2): [3, 0, 0, 0, 7, 0, 0],
    }
    for steps in (1, 2):
        assert shifted(x, steps, place, reverse).flatten().tolist() == wanted[reverse, steps]
    assert places(x, None) is None


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_causal_convolution_is_torchs_with_zeros_before_and_its_reverse_that_of_the_flipped_sequence(count):
    conv, x = CausalConv(5, 4).double(), torch.randn(2, count, 5, dtype=torch.float64)
    padded = nn.functional.pad(x.transpose(1, 2), (3, 0))
    wanted = nn.functional.conv1d(padded, conv.weight, conv.bias, groups=5).transpose(1, 2)
    torch.testing.assert_close(conv(x, None), wanted)
    torch.testing.assert_close(conv(x.flip(1), None, reverse=True).flip(1), wanted)


def test_drop_path_drops_whole_sequences_and_keeps_their_mean():
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    y = drop(x)
    assert sorted(set(y.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (y == y[:, :1, :1]).all()
    assert abs(y.mean() - 1) < 0.05
    edges = torch.arange(0, 1001, 4, dtype=torch.int32)
    y = drop(torch.ones(1, 1000, 3), edges).view(250, 4, 3)
    assert (y == y[:, :1, :1]).all() and 0 < (y == 0).float().mean() < 0.5
    assert drop.eval()(x) is x


@pytest.mark.parametrize("name", WORDS)
def test_dropped_sequences_pass_through_in_training_only(name):
    torch.manual_seed(0)
    model, x = small(name, drop_path=0.5), tokens(40, 3)
    whole = model(x)
    y = model.train()(x)
    if name == "ttt":  # its feed-forward half is never dropped
        untouched = x + model.mlp(model.ffn_norm(x))
    elif name == "rwkv":
        untouched = model.ln0(x)
    else:
        untouched = x
    alone = (y - untouched).abs().amax((1, 2)) < 1e-12
    assert 1 <= alone.sum() < 40
    torch.testing.assert_close(model.eval()(x), whole)
