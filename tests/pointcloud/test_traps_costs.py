"""What a CPU cannot pay for: a T x T matrix of a group's tokens, and a Python loop over them."""

from itertools import pairwise

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from .lion_operator_cases import CHANNELS, small

COUNTS = (512, 1024, 2048)


def cost(name: str, count: int) -> tuple[int, int]:
    """Most bytes held at a time by a forward and backward pass over a sequence, and the calls of torch."""
    model = small(name, torch.float32)
    x = torch.randn(1, count, CHANNELS, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        model(x).sum().backward()
    held = most = calls = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
        calls += event.name().startswith("aten::")
    return most, calls


@pytest.mark.parametrize("name", ["retnet", "rwkv", "mlstm", "gated"])
def test_operators_pay_by_the_token(name, monkeypatch):
    """The authors' mLSTM holds T x T matrices, four heads of them; a loop over steps calls torch for each."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # groups of tiles grow with threads
    costs = [cost(name, count) for count in COUNTS]
    for (least, few), (most, many) in pairwise(costs):
        assert most <= 2.5 * least, f"{costs}: bytes grow faster than tokens"
        assert many <= 2.5 * few, f"{costs}: calls grow faster than tokens"
    per_token = (costs[-1][1] - costs[0][1]) / (COUNTS[-1] - COUNTS[0])
    assert per_token < 5, f"{costs}: calls a token"
