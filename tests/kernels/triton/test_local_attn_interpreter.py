"""Local attention's Triton kernels in Triton's interpreter, each group in its own process; see
test_interpreter.py.
"""

import pytest

pytest.importorskip("triton")

from .children import check_planted, passed

GROUPS = {"forward": 30, "backward": 30, "public": 3, "registration": 3}
SAMPLED = ("forward", "backward")  # a third of the cases by default


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_case_equals_float64_in_the_interpreter(group, request):
    sample = group in SAMPLED and not request.config.getoption("--all-cases")
    count = passed("local_attn_child.py", group, *(["sample"] if sample else []))
    assert count >= (10 if sample else GROUPS[group])


# (group, case, file, line, what it is changed to): faults in every kernel, shared part and the host side
PLANTS = [
    ("forward", "circle", "triton_forward", "total * kept + tl.sum(p, 1)", "total + tl.sum(p, 1)"),
    ("forward", "circle", "triton_parts", "dy * dy + dx * dx <= limit", "dy * dy + dx * dx < limit"),
    ("forward", "rectangle", "triton_parts", "(dx <= reach_x)", "(dx < reach_x)"),
    ("forward", "circle", "triton_parts", "start + SIZE - 1 + reach", "start + SIZE - 1"),
    ("forward", "everything", "triton_parts", "// STEP - low + 1, 0", "// STEP - low, 0"),
    ("forward", "halo", "triton_forward", "y += first", "y += 0"),
    ("forward", "one_token", "triton_parts", "(y < rows) & (x < width)", "x < width + 1"),
    ("forward", "more_splits_than_blocks", "triton_parts", "tl.minimum(low + span, end)", "low + span"),
    ("forward", "split", "triton_parts", "start + split * span", "start + split"),
    ("forward", "text_last", "triton_launch", "_flat(g.key_global_start, g", "_flat(0, g"),
    ("forward", "circle_fp16", "triton_parts", "x = x.to(tl.float32)", "x = x"),
    ("forward", "far_tokens", "triton_parts", "tokens.to(tl.int64)[:, None]", "tokens[:, None]"),
    ("forward", "far_heads", "triton_forward", "program_id(1).to(tl.int64)", "program_id(1)"),
    ("forward", "large_scores", "triton_forward", "scores - shift[:, None]", "scores"),
    ("backward", "circle", "triton_backward", " - delta[:, None])", " - 0.0)"),
    ("backward", "circle", "triton_backward", "delta -= tl.load(dlse", "delta += tl.load(dlse"),
    ("backward", "circle", "triton_backward", " - delta[None, :])", " - 0.0)"),
    ("backward", "halo", "triton_backward", "own_y + first", "own_y"),
    ("backward", "halo", "triton_backward", "tile_y * KY - first", "tile_y * KY"),
    ("backward", "split", "triton_launch", "dk.sum(0), dv.sum(0)", "dk[0], dv.sum(0)"),
    ("backward", "text_last", "triton_launch", "_flat(g.query_global_start", "_flat(0"),
    ("backward", "far_heads", "triton_backward", "program_id(1).to(tl.int64)", "program_id(1)"),
    ("backward", "values_of_three", "triton_backward", "(e < E)[None, :])", "(e < BE)[None, :])"),
]


@pytest.mark.slow
def test_a_changed_line_in_a_kernel_is_seen(tmp_path, request):
    check_planted(PLANTS, "local_attn", tmp_path, request.config)


def test_the_launcher_refuses_what_it_cannot_take():
    import torch

    from linzoo.kernels import BackendError, local_attn
    from linzoo.kernels.local_attn import BACKENDS, triton_launch
    from linzoo.kernels.local_attn.geometry import Geometry

    x = torch.zeros(1, 4, 1, 4)
    with pytest.raises(BackendError, match=r"local_attn: backend 'triton' cannot run: tensors are on cpu"):
        triton_launch.forward(x, x, x, None, None, Geometry(2, 2, 0, 2, 0, 0, 1, 1, 1, 1), 0.5)
    with pytest.raises(BackendError, match=r"takes bfloat16, float16 and float32, got torch\.float64"):
        local_attn(*(x.double(),) * 3, grid=(2, 2), radius=2, backend="triton")
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        wide = torch.empty(1, 4, 1, 320, device="cuda")
    assert BACKENDS[0].why_not(wide) == "takes D and E up to 256, got 320"
