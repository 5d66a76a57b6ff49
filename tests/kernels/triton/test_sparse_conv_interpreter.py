"""The kernels of the sparse convolutions and segment sums in Triton's interpreter, in processes of their own;
see test_interpreter.py.
"""

import pytest

pytest.importorskip("triton")

from .children import check_planted, passed

REST = "public,registration,compiled,far"
GROUPS = {
    "sparse_conv": {"forward": 14, "backward": 9, "depthwise": 8, REST: 6},
    "segment_ops": {"sums,public,far": 18},
}


@pytest.mark.slow
@pytest.mark.parametrize(("op", "groups"), [(op, name) for op, groups in GROUPS.items() for name in groups])
def test_every_case_equals_float64_in_the_interpreter(op, groups):
    assert passed(f"{op}_child.py", groups) == GROUPS[op][groups]


# (group, case, file, line, what it is changed to): faults in every kernel and the host side
CONV_PLANTS = [
    ("forward", "one_channel", "triton_kernels", "there = sources >= 0", "there = sources > 0"),
    ("forward", "one_channel", "triton_kernels", "tl.int32), 0) > 0", "tl.int32), 0) > 1"),
    ("forward", "widths_of_no_tile", "triton_kernels", "k * C + c, n", "k + c, n"),
    ("forward", "widths_of_no_tile", "triton_kernels", "(n < N)[None, :]", "(n <= N)[None, :]"),
    ("forward", "thin_bf16", "triton_kernels", "outputs.to(tl.int64)[:, None] * N", "column[:, None] * N"),
    ("forward", "one_row", "triton_kernels", "total += tl.load(bias", "total -= tl.load(bias"),
    ("far", "one_row", "triton_kernels", "rows.to(tl.int64)[:, None] * WIDTH", "rows[:, None] * WIDTH"),
    ("backward", "split", "triton_kernels", "first += part * span", "first += part"),
    (
        "backward",
        "more_splits_than_blocks",
        "triton_kernels",
        "tl.minimum(first + span, end)",
        "first + span",
    ),
    ("backward", "split", "triton_launch", "return parts.sum(0)", "return parts[0]"),
    ("backward", "wider_than_a_tile", "triton_kernels", "% tl.cdiv(N, BN) * BN", "% tl.cdiv(N, BN)"),
    ("depthwise", "widths_of_no_tile", "triton_kernels", "weight + k * C + c, mask", "weight + c, mask"),
    ("depthwise", "one_channel", "triton_kernels", "sources >= 0, C)", "sources > 0, C)"),
    ("depthwise", "split", "depthwise_triton", "return parts.sum(0)", "return parts[0]"),
    ("depthwise", "split", "triton_kernels", "tl.sum(rows * grads, 0)", "tl.sum(rows, 0)"),
]
SUM_PLANTS = [
    ("sums", "many_rows_in_one", "triton_kernels", "total += tl.sum", "total = tl.sum"),
    (
        "sums",
        "plain",
        "triton_kernels",
        "rows = tl.load(order + position, mask=live, other=0)",
        "rows = rows",
    ),
    ("sums", "wider_than_a_tile", "triton_kernels", "mask=c < C)", "mask=c <= C)"),
    ("sums", "pieces", "triton_launch", "- own[segment]) * SPAN", "- own[segment])"),
    ("sums", "pieces", "triton_launch", "torch.minimum(first + SPAN, offsets[segment + 1])", "first + SPAN"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "plants"), [("sparse_conv", CONV_PLANTS), ("segment_ops", SUM_PLANTS)])
def test_a_changed_line_in_a_kernel_is_seen(op, plants, tmp_path, request):
    check_planted(plants, op, tmp_path, request.config)


def test_the_launchers_refuse_what_they_cannot_take():
    import torch

    from linzoo.kernels import BackendError
    from linzoo.kernels.segment_ops import triton_launch as segments
    from linzoo.kernels.sparse_conv import depthwise_triton, triton_launch

    x, table = torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.int32)
    text = "backend 'triton' cannot run: tensors are on cpu, needs cuda"
    with pytest.raises(BackendError, match=f"^sparse_conv: {text}"):
        triton_launch.forward(x, torch.zeros(3, 1, 1, 1, 4), None, table)
    with pytest.raises(BackendError, match=f"depthwise_sparse_conv: {text}"):
        depthwise_triton.forward(x, torch.zeros(1, 1, 1, 4), table)
    with pytest.raises(BackendError, match=f"segment_sum: {text}"):
        segments.segment_sum(x, torch.zeros(2, dtype=torch.int64), 1)
