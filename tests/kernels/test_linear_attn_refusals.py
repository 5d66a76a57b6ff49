# ruff: noqa: E501 - a table, one case a line
"""Bad input: one clear error that names the argument, what it must be and what it was."""

import pytest
import torch

from linzoo.kernels import (
    BackendError,
    LinState,
    ShapeError,
    feature_map,
    lin_readout,
    lin_reduce,
    linear_attn,
)

B, N, H, D, E = 2, 6, 2, 4, 3


def tokens(d=D, **kw):
    return torch.ones(B, N, H, d, **kw)


def cu(*offsets, dtype=torch.int32):
    return torch.tensor(offsets, dtype=dtype)


def table(n=N, d=D, **kw):
    return torch.ones(n, d, **kw)


LINEAR_ATTN = {  # what differs from a good call -> error, text
    "q is no tensor": ({"q": 3}, TypeError, r"q must be a tensor \(B, N, H, D\), got int"),
    "rank": ({"k": torch.ones(B, N, D)}, ShapeError, r"k must have 4 dimensions \(B, N, H, D\), got \(2, 6, 4\)"),
    "no tokens": ({"v": torch.ones(B, 0, H, E)}, ShapeError, r"v must have no dimension of size 0"),
    "no rows": ({"q": torch.ones(0, N, H, D)}, ShapeError, r"q must have no dimension of size 0 .* got \(0, 6"),
    "no heads": ({"k": torch.ones(B, N, 0, D)}, ShapeError, r"k must have no dimension of size 0"),
    "no width": ({"v": torch.ones(B, N, H, 0)}, ShapeError, r"v must have no dimension of size 0"),
    "k width": ({"k": tokens(5)}, ShapeError, r"k must have q's shape \(B, N, H, D\) = \(2, 6, 2, 4\), got"),
    "v tokens": ({"v": torch.ones(B, 7, H, E)}, ShapeError, r"v must have k's \(B, N, H\) = \(2, 6, 2\), got"),
    "integer": ({"q": tokens().long()}, ShapeError, r"q must be float64, float32, bfloat16 or float16, got torch.int64"),
    "mixed dtypes": ({"v": tokens(E).half()}, ShapeError, r"v must be torch.float32, k's dtype, got torch.float16"),
    "q dtype": ({"q": tokens().double()}, ShapeError, r"k must be torch.float64, q's dtype, got torch.float32"),
    "device": ({"v": tokens(E, device="meta")}, ShapeError, r"v must be on k's device cpu, got meta"),
    "feature": ({"feature": "elu_1"}, ValueError, r"feature must be one of .*, got 'elu_1' \(did you mean 'elu1'\?\)"),
    "norm": ({"norm": "clmap"}, ValueError, r"norm must be one of .*, got 'clmap' \(did you mean 'clamp'\?\)"),
    "backend": ({"backend": "eagre"}, ValueError, r"backend must be one of .* \(did you mean 'eager'\?\)"),
    "triton here": ({"backend": "triton"}, BackendError, r"backend='triton' \(triton: (tensors are on cpu|triton is not)"),
    "eps": ({"eps": -1.0}, ValueError, r"eps must be >= 0, got -1"),
    "eps type": ({"eps": "tiny"}, TypeError, r"eps must be a Python number, got str"),
    "eps_on": ({"eps_on": "means"}, ValueError, r"eps_on must be one of .* \(did you mean 'mean'\?\)"),
    "eps_on mag": ({"eps_on": "sum", "norm": "mag"}, ValueError, r"eps_on must be 'mean' unless norm='sum'"),
    "scale for sum": ({"scale": 0.5}, ValueError, r"scale must be None with norm='sum', got 0.5"),
    "scale for mag": ({"scale": torch.ones(H), "norm": "mag"}, TypeError, r"scale must be a Python number, got Tensor"),
    "clamp without cmin": ({"norm": "clamp", "scale": torch.ones(H)}, TypeError, r"cmin must be a Python number, got None"),
    "cmin 0": ({"norm": "clamp", "scale": torch.ones(H), "cmin": 0}, ValueError, r"cmin must be > 0, got 0"),
    "clamp without scale": ({"norm": "clamp", "cmin": 1.0}, TypeError, r"scale must be a tensor \(H,\), got None"),
    "clamp scale heads": (
        {"norm": "clamp", "cmin": 1.0, "scale": torch.ones(3)}, ShapeError, r"scale must be \(H,\) = \(2,\), got \(3,\)"
    ),
    "clamp scale dtype": (
        {"norm": "clamp", "cmin": 1.0, "scale": torch.ones(H).long()}, ShapeError, r"scale must be float64, .* got torch.int64"
    ),
    "clamp scale complex": (
        {"norm": "clamp", "cmin": 1.0, "scale": torch.ones(H).cfloat()}, ShapeError, r"scale must be float64, .* got torch.complex64"
    ),
    "cmin for sum": ({"cmin": 1.0}, ValueError, r"cmin must be None unless norm='clamp', got 1.0"),
    "rope type": ({"rope": table()}, TypeError, r"rope must be None or a pair of tensors \(cos, sin\), got Tensor"),
    "rope tokens": ({"rope": (table(7), table(7))}, ShapeError, r"rope cos must be \(N, D\) = \(6, 4\), got \(7, 4\)"),
    "rope dtype": ({"rope": (table(), table().double())}, ShapeError, r"rope sin must be torch.float32"),
    "rope grad": ({"rope": (table(requires_grad=True), table())}, ValueError, r"rope cos must be a constant"),
    "weight with mag": ({"weight": torch.ones(B, N, H), "norm": "mag"}, ValueError, r"weight must be None with norm='mag'"),
    "weight with sub": ({"weight": torch.ones(B, N, H), "norm": "sub"}, ValueError, r"weight must be None .* norm='sub'"),
    "weight shape": ({"weight": torch.ones(B, N)}, ShapeError, r"weight must have 3 dimensions \(B, N, H\), got \(2, 6\)"),
    "weight dtype": ({"weight": torch.ones(B, N, H).int()}, ShapeError, r"weight must be float64, .* got torch.int32"),
    "mask dtype": ({"mask": torch.ones(B, N)}, ShapeError, r"mask must be torch.bool .* got torch.float32"),
    "mask shape": ({"mask": torch.ones(B, 5) > 0}, ShapeError, r"mask must be \(B, N\) = \(2, 6\), got \(2, 5\)"),
    "segments of 2 rows": ({"cu_seqlens": cu(0, 6)}, ShapeError, r"k must have B = 1 with cu_seqlens .* got B = 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEAR_ATTN)
def test_linear_attn_refuses(case):
    wrong, error, text = LINEAR_ATTN[case]
    good = {"q": tokens(), "k": tokens(), "v": tokens(E)}
    linear_attn(**good)
    with pytest.raises(error, match="linear_attn: .*" + text):
        linear_attn(**(good | wrong))


@pytest.mark.parametrize(
    ("offsets", "text"),
    [
        (cu(0, 3, 6, dtype=torch.int64), "cu_seqlens must be torch.int32 .* got torch.int64"),
        (cu(0, 4, 3, 6), r"cu_seqlens must never fall from one entry to the next, got \[0, 4, 3, 6\]"),
        (cu(0, -1, 6), "cu_seqlens must never fall"),
        (cu(-2, 3, 6), "cu_seqlens must start at 0, got -2"),
        (cu(1, 3, 6), "cu_seqlens must start at 0, got 1"),
        (cu(0, 3, 5), "cu_seqlens must end at N = 6, got 5"),
        (cu(0, 3, 9), "cu_seqlens must end at N = 6, got 9"),
        (cu(0), "cu_seqlens must have at least 2 entries"),
        (cu(), "cu_seqlens must have no dimension of size 0"),
        (cu(0, 6)[None], r"cu_seqlens must have 1 dimensions \(G \+ 1,\)"),
        (
            torch.zeros(2, dtype=torch.int32, device="meta"),
            "cu_seqlens must be on (k|q)'s device cpu, got meta",
        ),
    ],
)
def test_offsets_that_do_not_span_the_tokens_are_refused_by_every_op(offsets, text):
    q = tokens()[:1]
    with pytest.raises(ShapeError, match="linear_attn: " + text):
        linear_attn(q, q, q, cu_seqlens=offsets)
    with pytest.raises(ShapeError, match="lin_reduce: " + text):
        lin_reduce(q, q, cu_seqlens=offsets)


@pytest.mark.parametrize("as_parameter", [False, True], ids=["compiled", "parameter"])
def test_values_that_a_compiler_could_not_read_are_refused_when_the_op_runs(as_parameter):
    def attend(offsets):
        q = tokens()[:1]
        return linear_attn(q, q, q, cu_seqlens=offsets)

    def read(rows):
        return lin_readout(tokens()[:1], STATE, state_index=rows)

    def prepare(call, values):
        if as_parameter:
            return call, torch.nn.Parameter(values, requires_grad=False)
        return torch.compile(call, fullgraph=True, backend="aot_eager"), values

    for offsets, text in ((cu(0, 4), "end at N = 6, got 4"), (cu(0, 4, 2, 6), "never fall")):
        call, values = prepare(attend, offsets)
        with pytest.raises(ShapeError, match=f"cu_seqlens must {text}"):
            call(values)
    call, values = prepare(read, cu(*[5] * N))
    with pytest.raises(ShapeError, match=r"state_index must be in 0 .. 1"):
        call(values)


STATE = lin_reduce(tokens(), tokens(E))
CENTRED = lin_reduce(tokens(), tokens(E), norm="sub")

LIN_READOUT = {
    "state type": ({"state": STATE.S}, TypeError, r"state must be a LinState, got Tensor"),
    "rows": ({"q": tokens()[:1]}, ShapeError, r"state.S must have R = B = 1 rows, got 2"),
    "heads": ({"q": torch.ones(B, N, 3, D)}, ShapeError, r"state.S must have q's \(H, D\) = \(3, 4\), got \(2, 4\)"),
    "q float64": ({"q": tokens().double()}, ShapeError, r"state.S must be torch.float64 for q of torch.float64"),
    "ragged state": (
        {"state": LinState(STATE.S, STATE.s[:, :1], STATE.m, STATE.n)},
        ShapeError,
        r"state.s must be \(R, H, D\) = \(2, 2, 4\), got \(2, 1, 4\)",
    ),
    "centred for sum": ({"state": CENTRED}, ShapeError, r"centred state must be read with norm='sub' and rope=None"),
    "centred with rope": (
        {"state": CENTRED, "norm": "sub", "rope": (table(), table())},
        ShapeError,
        r"centred state must be read with .* got norm='sub' with rope",
    ),
    "both ways": (
        {"q": tokens()[:1], "cu_seqlens": cu(0, 2, 6), "state_index": cu(*[0] * N)},
        ValueError,
        r"state_index must be None when cu_seqlens is given",
    ),
    "segments": ({"q": tokens()[:1], "cu_seqlens": cu(0, 1, 2, 6)}, ShapeError, r"must have R = G = 3 rows, got 2"),
    "index rows": ({"state_index": cu(*[0] * N)}, ShapeError, r"q must have B = 1 with state_index, got B = 2"),
    "index length": ({"q": tokens()[:1], "state_index": cu(0, 1)}, ShapeError, r"state_index must be \(N,\) = \(6,\)"),
    "index dtype": (
        {"q": tokens()[:1], "state_index": cu(*[0] * N, dtype=torch.int64)}, ShapeError, r"state_index must be torch.int32"
    ),
    "index high": ({"q": tokens()[:1], "state_index": cu(*[2] * N)}, ShapeError, r"state_index must be in 0 .. 1 .* 2 .. 2"),
    "index low": ({"q": tokens()[:1], "state_index": cu(*[-1] * N)}, ShapeError, r"state_index must be in 0 .. 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIN_READOUT)
def test_lin_readout_refuses(case):
    wrong, error, text = LIN_READOUT[case]
    with pytest.raises(error, match="lin_readout: .*" + text):
        lin_readout(**({"q": tokens(), "state": STATE} | wrong))


def test_states_that_do_not_fit_are_not_added():
    with pytest.raises(
        ShapeError, match=r"S must have the left side's \(R, H, D, E\) = \(2, 2, 4, 3\), got \(2, 2, 4, 4\)"
    ):
        STATE + lin_reduce(tokens(), tokens())
    with pytest.raises(ShapeError, match=r"torch.float32 on cpu like the left side, got torch.float64"):
        STATE + lin_reduce(tokens().double(), tokens(E).double())
    with pytest.raises(ValueError, match="both must be centred or neither, got False and True"):
        STATE + CENTRED
    with pytest.raises(TypeError):
        STATE + 1


PARTS = {  # what differs from a good state -> text
    "s dtype": ({"s": STATE.s.double()}, r"s must be torch.float32 for .*S of torch.float32, got torch.float64"),
    "m dtype": ({"m": STATE.m.half()}, r"m must be torch.float32 for .*S of torch.float32, got torch.float16"),
    "n dtype": ({"n": STATE.n.int()}, r"n must be torch.int64 for .*S of torch.float32, got torch.int32"),
    "s device": ({"s": STATE.s.to("meta")}, r"s must be on .*S's device cpu, got meta"),
    "m device": ({"m": STATE.m.to("meta")}, r"m must be on .*S's device cpu, got meta"),
    "n device": ({"n": STATE.n.to("meta")}, r"n must be on .*S's device cpu, got meta"),
    "s shape": ({"s": STATE.s[:1]}, r"s must be \(R, H, D\) = \(2, 2, 4\), got \(1, 2, 4\)"),
    "m shape": ({"m": STATE.m[:, :1]}, r"m must be \(R, H, E\) = \(2, 2, 3\), got \(2, 1, 3\)"),
    "n shape": ({"n": STATE.n[:1]}, r"n must be \(R,\) = \(2,\), got \(1,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_state_whose_parts_do_not_fit_is_neither_read_nor_added(case):
    wrong, text = PARTS[case]
    bad = LinState(**(vars(STATE) | wrong))
    with pytest.raises(ShapeError, match=r"lin_readout: state\." + text):
        lin_readout(tokens(), bad)
    with pytest.raises(ShapeError, match=r"LinState \+: right " + text):
        STATE + bad
    with pytest.raises(ShapeError, match=r"LinState \+: left " + text):
        bad + STATE


def test_feature_map_suggests_the_nearest_name():
    with pytest.raises(ValueError, match=r"feature must be one of .* got 'rleu' \(did you mean 'relu'\?\)"):
        feature_map(tokens(), "rleu")


def test_odd_widths_cannot_rotate():
    x = tokens(3)
    with pytest.raises(ShapeError, match=r"rope must be None when [qk]'s D is odd"):
        linear_attn(x, x, x, rope=(table(d=3), table(d=3)))
