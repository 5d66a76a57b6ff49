"""The Triton kernels in Triton's interpreter, one process a kernel: a wild read kills the child, not the run.

On a machine without a GPU this is what shows that the kernels compute what they should: each against float64,
over normalisers, features, rotation, weights, masks, segments, widths, layouts and dtypes. It says nothing
about speed, nor about what a compiler makes of them. The same children run compiled on a GPU: see device.py.
"""

import pytest

pytest.importorskip("triton")

from .children import check_planted, outcomes, passed

GROUPS = (
    "reduce_forward",
    "reduce_backward",
    "readout_forward",
    "readout_backward",
    "public",
    "registration",
)


def test_the_launchers_refuse_what_they_cannot_take():
    import torch

    from linzoo.kernels import BackendError, linear_attn
    from linzoo.kernels.linear_attn import triton_launch

    k = torch.zeros(1, 3, 1, 4)
    with pytest.raises(
        BackendError, match=r"lin_reduce: backend 'triton' cannot run: tensors are on cpu, needs cuda"
    ):
        triton_launch.reduce_forward(k, k, None, None, None, None, None, "elu1", False)
    with pytest.raises(BackendError, match=r"takes bfloat16, float16 and float32, got torch\.float64"):
        linear_attn(k.double(), k.double(), k.double(), backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_case_equals_float64_in_the_interpreter(group, request):
    # a third of the cases by default, of public a sixth
    sample = group != "registration" and not request.config.getoption("--all-cases")
    count = passed("child.py", group, *(["sample"] if sample else []))
    least = {"registration": 5, "public": 6}.get(group, 13)
    assert count >= (least if sample or group == "registration" else 40)


# (kernel, cases, file, line, what it is changed to): one fault in each kernel and one in each shared part
PLANTS = [
    ("reduce_forward", "linfusion_40", "triton_reduce", "s += tl.sum(p, 0)", "s = tl.sum(p, 0)"),
    ("reduce_forward", "inline_split", "triton_reduce", "(n * share)", "(block_n * share)"),
    ("reduce_forward", "mala_masked", "triton_reduce", "tokens * kn", "tokens * kn * 0"),
    ("reduce_forward", "far_heads", "triton_reduce", "program_id(1).to(tl.int64)", "program_id(1)"),
    ("readout_forward", "far_heads", "triton_readout", "program_id(1).to(tl.int64)", "program_id(1)"),
    (
        "reduce_forward",
        "weight_65536_fp16",
        "triton_parts",
        "if tl.bfloat16 == INPUT:\n        x = x.to(tl.bfloat16)",
        "if tl.float32 != INPUT:\n        x = x.to(INPUT)",
    ),
    ("reduce_forward", "far_tokens", "triton_parts", "position.to(tl.int64)", "position"),
    ("reduce_backward", "rala", "triton_parts", "x * cos - quarter_turn(", "x * cos + quarter_turn("),
    ("reduce_backward", "inline", "triton_reduce", "e, E)[None, :] * per_token", "e, E)[None, :] * 0.0"),
    ("reduce_backward", "rala", "triton_reduce", "grad_w += tl.sum(grad_p * p, 1)", "grad_w += tl.sum(p, 1)"),
    ("readout_forward", "mala", "triton_readout", "beta = -tau * z", "beta = tau * z"),
    ("readout_forward", "keys_and_values_tiled", "triton_readout", "z += tl.sum(f", "z -= tl.sum(f"),
    ("readout_forward", "large_fp16", "triton_readout", "d, e, D, E) / filled, op", "d, e, D, E), op"),
    ("readout_backward", "mala", "triton_readout", "beta_slope * m_dy", "0.0 * m_dy"),
    ("readout_backward", "any_state_mag", "triton_parts", "order + position", "order + first"),
    ("readout_backward", "l2vit", "triton_readout", "z > cmin", "z > 2.0 * cmin"),
    ("readout_backward", "rala_bf16", "triton_parts", "if INTERPRETED and", "if False and"),
]


@pytest.mark.slow
def test_a_changed_line_in_a_kernel_is_seen(tmp_path, request):
    check_planted(PLANTS, "linear_attn", tmp_path, request.config)


def test_a_wild_read_kills_the_child_only(tmp_path):
    wild = ("triton_parts", "stride * ALIGN + columns", "stride * ALIGN + 10**14 + columns")
    ((code, _),) = outcomes(tmp_path, [("readout_forward", "one_token", *wild)], "linear_attn")
    assert code < 0  # killed by a signal; in this process it would have been us
