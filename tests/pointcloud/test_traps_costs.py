"""What nobody can pay for: T x T matrices, a Python loop over tokens, windows padded to the longest."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from linzoo.pointcloud.scatterformer.attention import ScatteredLinearAttention

from .lion_operator_cases import CHANNELS, small

COUNTS = (512, 1024, 2048)


def cost(forward: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Most bytes held at a time by a forward and backward pass, and the calls of torch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        forward().sum().backward()
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
    model = small(name, torch.float32)
    tokens = [torch.randn(1, count, CHANNELS, requires_grad=True) for count in COUNTS]
    costs = [cost(lambda x=x: model(x)) for x in tokens]
    for (least, few), (most, many) in pairwise(costs):
        assert most <= 2.5 * least, f"{costs}: bytes grow faster than tokens"
        assert many <= 2.5 * few, f"{costs}: calls grow faster than tokens"
    per_token = (costs[-1][1] - costs[0][1]) / (COUNTS[-1] - COUNTS[0])
    assert per_token < 5, f"{costs}: calls a token"


def test_windows_of_one_voxel_do_not_pay_for_the_longest():
    """Real frames have windows of 1 to some 300 voxels; a grid of windows by slots would be mostly empty."""
    attend, costs = ScatteredLinearAttention(32, 2), []
    for short in (300, 900):
        ends = torch.tensor([0, *range(1, short + 1), short + 2000], dtype=torch.int32)
        rows = torch.randn(short + 2000, 32, requires_grad=True)
        costs.append(cost(lambda rows=rows, ends=ends: attend(rows, ends)))
        assert costs[-1][0] < 60 * rows.nbytes  # slots for all would be hundreds of times the rows
    assert costs[1][1] < 1.2 * costs[0][1], f"{costs}: a loop over windows"
