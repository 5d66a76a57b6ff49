"""The selective scan's Triton kernels in Triton's interpreter, each group in its own process; see
test_interpreter.py.
"""

import pytest

pytest.importorskip("triton")

from .children import check_planted, passed

GROUPS = {"forward": 14, "backward": 14, "public": 2, "registration": 2}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_case_equals_float64_in_the_interpreter(group):
    assert passed("selective_scan_child.py", group) >= GROUPS[group]


# (group, case, file, line, what it is changed to): faults in every kernel, shared part and the host side
PLANTS = [
    ("forward", "three_states", "triton_parts", "(delta * u)[:, None]", "u[:, None]"),
    ("forward", "one_of_all", "triton_parts", "mask=live & (i + j < number)", "mask=live"),
    ("forward", "segments_reverse", "triton_parts", "start + length - 1 - step", "start + length - step"),
    ("forward", "segments", "triton_parts", "tl.load(first_slots + state)", "0"),
    ("forward", "rows", "triton_states", "tl.exp2(total[:, None] * A) * h + x", "h + x"),
    ("forward", "rows", "triton_states", "total += d", "total = d"),
    ("forward", "three_states", "triton_outputs", "+ skip * us[j]", "+ skip"),
    ("forward", "far_rows", "triton_parts", "(slot // per_row).to(tl.int64)", "(slot // per_row)"),
    ("backward", "three_states", "triton_outputs", "slope = x * read +", "slope = read +"),
    ("backward", "three_states", "triton_outputs", "g * decay * hs[own]", "g * decay * hs[own + 1]"),
    ("backward", "three_states", "triton_outputs", "tl.sum(hs[own + 1]", "tl.sum(hs[own]"),
    ("backward", "no_unit_stride", "triton_outputs", "for m in range(0, i, T)", "for m in range(0, 0, T)"),
    ("backward", "rows", "triton_states", "chunks - 1 - k if ADJOINT else k", "k"),
    ("backward", "tiles_of_channels", "triton_launch", "part.sum(0)", "part[0]"),
    ("backward", "rows", "triton_launch", "dA.sum(0)", "dA[0]"),
]


@pytest.mark.slow
def test_a_changed_line_in_a_kernel_is_seen(tmp_path, request):
    check_planted(PLANTS, "selective_scan", tmp_path, request.config)


def test_the_launcher_refuses_what_it_cannot_take():
    import torch

    from linzoo.kernels import BackendError
    from linzoo.kernels.selective_scan import triton_launch
    from linzoo.kernels.selective_scan.eager import Inputs

    x, A = torch.zeros(1, 4, 3), torch.zeros(3, 3)
    inputs = Inputs(x, x, A, x, x, None, None, None, False)
    with pytest.raises(BackendError, match="selective_scan: backend 'triton' cannot run: tensors are on cpu"):
        triton_launch.forward(inputs, keep=False)
