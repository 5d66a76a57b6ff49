"""The decayed scan's Triton kernels in Triton's interpreter, each group in its own process; see
test_interpreter.py.
"""

import pytest

pytest.importorskip("triton")

from .children import check_planted, passed

GROUPS = {"forward": 30, "backward": 30, "public": 4, "registration": 3}
# A third of the cases by default; all with --all-cases.
SAMPLE = {
    "forward": [
        "channel_resets",
        "rwkv_reverse_packed_bf16",
        "values_of_three",
        "keys_and_values_tiled_bf16",
        "token",
        "token_resets",
        "token_rwkv",
        "constant_packed",
        "symmetric_reverse_packed",
        "one_token",
        "far_tokens",
        "far_heads",
    ],
    "backward": [
        "channel_mixed",
        "rwkv_reverse_packed_bf16",
        "exclusive",
        "widths_differ",
        "token_bf16",
        "token_fp16_packed",
        "token_mixed",
        "token_rwkv",
        "constant_packed",
        "symmetric_packed_bf16",
        "one_token_token",
        "far_heads",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_cases_equal_float64_in_the_interpreter(group, request):
    sample = [] if request.config.getoption("--all-cases") else SAMPLE.get(group, [])
    assert passed("decay_scan_child.py", group, *sample) >= (len(sample) or GROUPS[group])


# (group, case, file, line, what it is changed to): faults in every kernel, shared part and the host side
PLANTS = [
    ("forward", "one_token", "triton_states", "S * keep", "S"),
    ("forward", "constant_packed", "triton_states", "tl.load(first_tile + row)", "row"),
    ("forward", "constant_packed", "triton_parts", "start + position", "position"),
    ("forward", "far_heads", "triton_outputs", "program_id(1).to(tl.int64)", "program_id(1)"),
    ("forward", "far_tokens", "triton_parts", "0).to(tl.int64), live", "0), live"),
    ("forward", "values_of_three", "triton_parts", "m < i if EXCLUSIVE else m <= i", "m < i"),
    ("forward", "values_of_three", "triton_parts", "((i & h) != 0) & ((j & h) == 0)", "((i & h) != 0)"),
    ("forward", "token_resets", "triton_parts", "(met_low[:, None] - low[None, :])", "0.0"),
    ("forward", "token_resets", "triton_parts", "x = tl.maximum(x, LEAST)", "x = x"),
    ("forward", "symmetric", "triton_outputs", "A *= scalar_weights(b, met, SYMMETRIC, BN)", "A *= 1.0"),
    ("forward", "values_of_three", "triton_outputs", "own += tl.sum(query * key, 1)", "own += 0.0"),
    ("backward", "one_token", "triton_gradients", "dkeep += tl.sum(S * dS, 1)", "dkeep += 0.0"),
    ("backward", "values_of_three", "triton_gradients", "to_middle(j, i, h", "to_middle(i, j, h"),
    ("backward", "values_of_three", "triton_gradients", "tl.where(across_middle(i, j, h), dA, 0.0)", "dA"),
    ("backward", "one_token_token", "triton_gradients", "dq * scale", "dq"),
    ("backward", "token_rwkv", "triton_gradients", "i > j + 1, later", "i > j, later"),
    ("backward", "token_tiled", "triton_launch", "dg.sum((0, 1, 2) if", "dg[:1].sum((0, 1, 2) if"),
    ("backward", "values_of_three", "triton_outputs", "tl.trans(A), grad", "A, grad"),
    ("public", "max", "triton_parts", "tl.where((e == EV)[None, :], 1.0, value)", "value"),
    ("public", "max", "triton_gradients", "tl.sum(dk * key, 1)", "tl.sum(dk, 1)"),
]


@pytest.mark.slow
def test_a_changed_line_in_a_kernel_is_seen(tmp_path, request):
    check_planted(PLANTS, "decay_scan", tmp_path, request.config)


def test_the_launcher_refuses_what_it_cannot_take():
    import torch

    from linzoo.kernels import BackendError, decay_scan
    from linzoo.kernels.decay_scan import triton_launch
    from linzoo.kernels.decay_scan.eager import Inputs, Words

    x, g = torch.zeros(1, 4, 1, 4), torch.zeros(1)
    with pytest.raises(BackendError, match=r"decay_scan: backend 'triton' cannot run: tensors are on cpu"):
        words = Words(0, False, False, 1.0, False, 64)
        triton_launch.scan_forward(Inputs(x, x, x, g, None, None, None, None), words)
    with pytest.raises(BackendError, match=r"takes bfloat16, float16 and float32, got torch\.float64"):
        decay_scan(*(x.double(),) * 3, g, backend="triton")
    with pytest.raises(BackendError, match="takes symmetric_block up to 64"):
        decay_scan(x, x, x, g, symmetric_block=65, backend="triton")


def test_auto_takes_the_kernels_on_a_gpu_and_plain_torch_where_they_do_not_fit():
    import torch
    from torch._subclasses import FakeTensorMode

    from linzoo.kernels.decay_scan.arguments import OP, backends_for
    from linzoo.kernels.transforms import choose_with_backward

    def chosen(x, log_decay, block=None):
        return choose_with_backward(OP, backends_for(x, x, log_decay, block), "auto", x)

    with FakeTensorMode():
        x, wide = (torch.empty(1, 4, 1, width, device="cuda") for width in (4, 72))
        shared = torch.empty(1, device="cuda")
    assert chosen(x, shared) == chosen(x, shared, 64) == chosen(wide.bfloat16(), shared) == "triton"
    assert chosen(wide, wide) == chosen(x.half(), x) == "triton"  # decays of their own for each channel
    assert chosen(x, shared, 65) == chosen(x.double(), shared) == "eager"
    assert chosen(x.half(), shared) == chosen(wide, shared) == "eager"  # what an H200 had wrong
    assert chosen(torch.zeros(1, 4, 1, 4), torch.zeros(1)) == "eager"
