"""Bad arguments raise before anything is computed; texts name the argument, what it must be, what it was."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from linzoo.kernels import BackendError, ShapeError, selective_scan
from linzoo.kernels.selective_scan import BACKENDS

R, N, C, S = 2, 6, 4, 3


def cu(*offsets, dtype=torch.int32):
    return torch.tensor(offsets, dtype=dtype)


def given() -> dict[str, object]:
    tokens = {
        "u": torch.ones(R, N, C),
        "delta": torch.ones(R, N, C),
        "B": torch.ones(R, N, S),
        "C": torch.ones(R, N, S),
    }
    return tokens | {"A": -torch.ones(C, S), "D": torch.ones(C)}


ONE = {name: x[:1] for name, x in given().items() if x.dim() == 3}

REFUSED = {
    "u type": ({"u": [1.0]}, TypeError, r"u must be a tensor \(B, N, C\), got list"),
    "u rank": ({"u": torch.ones(N, C)}, ShapeError, r"u must have 3 dimensions \(B, N, C\), got \(6, 4\)"),
    "u dtype": ({"u": torch.ones(R, N, C).long()}, ShapeError, r"u must be float64, .* got torch.int64"),
    "no tokens": (
        {"u": torch.ones(R, 0, C)},
        ShapeError,
        r"u must have no dimension of size 0 in \(B, N, C\), got \(2, 0, 4\)",
    ),
    "delta type": ({"delta": 0.1}, TypeError, r"delta must be a tensor \(B, N, C\), got float"),
    "delta tokens": (
        {"delta": torch.ones(R, 7, C)},
        ShapeError,
        r"delta must be \(B, N, C\) = \(2, 6, 4\), got \(2, 7, 4\)",
    ),
    "delta dtype": (
        {"delta": torch.ones(R, N, C).int()},
        ShapeError,
        r"delta must be float64, .* got torch.int32",
    ),
    "delta device": (
        {"delta": torch.ones(R, N, C, device="meta")},
        ShapeError,
        r"delta must be on u's device cpu, got meta",
    ),
    "A rank": ({"A": torch.ones(C)}, ShapeError, r"A must have 2 dimensions \(C, S\), got \(4,\)"),
    "A channels": ({"A": torch.ones(5, S)}, ShapeError, r"A must be \(C, S\) = \(4, 3\), got \(5, 3\)"),
    "A dtype": ({"A": torch.ones(C, S).long()}, ShapeError, r"A must be float64, .* got torch.int64"),
    "B states": (
        {"B": torch.ones(R, N, 5)},
        ShapeError,
        r"B must be \(B, N, S\) = \(2, 6, 3\), got \(2, 6, 5\)",
    ),
    "B per channel": (
        {"B": torch.ones(R, N, C, S)},
        ShapeError,
        r"B must have 3 dimensions \(B, N, S\), got \(2, 6, 4, 3\)",
    ),
    "B dtype": (
        {"B": torch.ones(R, N, S).double()},
        ShapeError,
        r"B must be torch.float32, u's dtype, got torch.float64",
    ),
    "C tokens": (
        {"C": torch.ones(R, 1, S)},
        ShapeError,
        r"C must be \(B, N, S\) = \(2, 6, 3\), got \(2, 1, 3\)",
    ),
    "C dtype": (
        {"C": torch.ones(R, N, S).half()},
        ShapeError,
        r"C must be torch.float32, u's dtype, got torch.float16",
    ),
    "D shape": ({"D": torch.ones(S)}, ShapeError, r"D must be \(C,\) = \(4,\), got \(3,\)"),
    "D type": ({"D": 1.0}, TypeError, r"D must be a tensor \(C,\), got float"),
    "initial rows": (
        {"initial": torch.zeros(3, C, S)},
        ShapeError,
        r"initial must be \(B, C, S\) = \(2, 4, 3\), got \(3, 4, 3\)",
    ),
    "initial segments": (
        ONE | {"initial": torch.zeros(1, C, S), "cu_seqlens": cu(0, 2, 6)},
        ShapeError,
        r"initial must be \(G, C, S\) = \(2, 4, 3\), got \(1, 4, 3\)",
    ),
    "initial dtype": (
        {"initial": torch.zeros(R, C, S).double()},
        ShapeError,
        r"initial must be torch.float32 for u of torch.float32, got torch.float64",
    ),
    "reverse": ({"reverse": 1}, TypeError, r"reverse must be True or False, got int"),
    "cu rows": ({"cu_seqlens": cu(0, 6)}, ShapeError, r"u must have B = 1 with cu_seqlens .* got B = 2"),
    "cu dtype": (
        ONE | {"cu_seqlens": cu(0, 6, dtype=torch.int64)},
        ShapeError,
        r"cu_seqlens must be torch.int32 .* got torch.int64",
    ),
    "cu start": (ONE | {"cu_seqlens": cu(1, 6)}, ShapeError, r"cu_seqlens must start at 0, got 1"),
    "cu falls": (
        ONE | {"cu_seqlens": cu(0, 4, 3, 6)},
        ShapeError,
        r"cu_seqlens must never fall .* got \[0, 4, 3, 6\]",
    ),
    "cu end": (ONE | {"cu_seqlens": cu(0, 5)}, ShapeError, r"cu_seqlens must end at N = 6, got 5"),
    "backend": (
        {"backend": "egaer"},
        ValueError,
        r"backend must be one of .* got 'egaer' \(did you mean 'eager'\?\)",
    ),
    "no triton here": (
        {"backend": "triton"},
        BackendError,
        r"no backend for backend='triton' \(triton: .*tensors are on cpu, needs cuda",
    ),
    "triton float64": (
        {name: x.double() for name, x in given().items()} | {"backend": "triton"},
        BackendError,
        r".*takes bfloat16, float16 and float32, got torch.float64",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_argument_is_named(name):
    change, error, text = REFUSED[name]
    if name == "no triton here":
        pytest.importorskip("triton")
    with pytest.raises(error, match=f"selective_scan: {text}"):
        selective_scan(**given() | change)


def test_auto_takes_the_eager_form_where_states_are_too_many_for_the_kernels():
    with FakeTensorMode():
        wide = torch.empty(1, 4, 300, device="cuda")
    pytest.importorskip("triton")
    assert BACKENDS[0].why_not(wide) == "takes up to 256 states a channel, got 300"


def test_offsets_that_a_compiler_could_not_read_are_checked_when_it_runs():
    x = {name: t for name, t in given().items()} | ONE
    fast = torch.compile(lambda c: selective_scan(**x, cu_seqlens=c)[0], fullgraph=True, backend="aot_eager")
    with pytest.raises(ShapeError, match="cu_seqlens must end at N = 6, got 5"):
        fast(cu(0, 5))
