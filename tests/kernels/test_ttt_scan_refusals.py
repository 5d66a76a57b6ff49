"""Bad arguments raise before anything is computed; texts name the argument, what it must be, what it was."""

import pytest
import torch

from linzoo.kernels import BackendError, ShapeError, ttt_scan

B, N, H, D, SIZE = 2, 6, 2, 4, 3


def good() -> dict:
    return {name: torch.ones(B, N, H, D) for name in "qkv"} | {
        "rate": torch.ones(B, N, H),
        "position_rate": torch.ones(SIZE),
        "W0": torch.ones(H, D, D),
        "b0": torch.ones(H, D),
        "gamma": torch.ones(H, D),
        "beta": torch.ones(H, D),
        "size": SIZE,
    }


def cu(*offsets, dtype=torch.int32):
    return torch.tensor(offsets, dtype=dtype)


REFUSED = {
    "q type": ({"q": [1.0]}, TypeError, r"q must be a tensor \(B, N, H, D\), got list"),
    "q rank": (
        {"q": torch.ones(B, N, D)},
        ShapeError,
        r"q must have 4 dimensions \(B, N, H, D\), got \(2, 6, 4\)",
    ),
    "q dtype": ({"q": torch.ones(B, N, H, D).long()}, ShapeError, r"q must be float64, .* got torch.int64"),
    "k shape": (
        {"k": torch.ones(B, N, H, 5)},
        ShapeError,
        r"k must have q's shape .* \(2, 6, 2, 4\), got \(2, 6, 2, 5\)",
    ),
    "v shape": (
        {"v": torch.ones(B, N, H, 5)},
        ShapeError,
        r"v must be \(B, N, H, D\) = \(2, 6, 2, 4\), got \(2, 6, 2, 5\)",
    ),
    "v dtype": (
        {"v": torch.ones(B, N, H, D).double()},
        ShapeError,
        r"v must be torch.float32, q's dtype, got torch.float64",
    ),
    "rate shape": (
        {"rate": torch.ones(B, N)},
        ShapeError,
        r"rate must have 3 dimensions \(B, N, H\), got \(2, 6\)",
    ),
    "rate dtype": (
        {"rate": torch.ones(B, N, H).long()},
        ShapeError,
        r"rate must be float64, .* got torch.int64",
    ),
    "position_rate": (
        {"position_rate": torch.ones(4)},
        ShapeError,
        r"position_rate must be \(size,\) = \(3,\), got \(4,\)",
    ),
    "W0 shape": (
        {"W0": torch.ones(H, D)},
        ShapeError,
        r"W0 must have 3 dimensions \(H, D, D\), got \(2, 4\)",
    ),
    "W0 rows": (
        {"W0": torch.ones(3, H, D, D)},
        ShapeError,
        r"W0 must be \(R, H, D, D\) = \(2, 2, 4, 4\), got \(3, 2, 4, 4\)",
    ),
    "W0 type": ({"W0": None}, TypeError, r"W0 must be a tensor \(H, D, D\), got NoneType"),
    "b0 rows": (
        {"b0": torch.ones(3, H, D)},
        ShapeError,
        r"b0 must be \(R, H, D\) = \(2, 2, 4\), got \(3, 2, 4\)",
    ),
    "gamma": ({"gamma": torch.ones(D)}, ShapeError, r"gamma must have 2 dimensions \(H, D\), got \(4,\)"),
    "beta": ({"beta": torch.ones(H, 5)}, ShapeError, r"beta must be \(H, D\) = \(2, 4\), got \(2, 5\)"),
    "device": (
        {"beta": torch.ones(H, D, device="meta")},
        ShapeError,
        r"beta must be on q's device cpu, got meta",
    ),
    "size": ({"size": 0}, ValueError, r"size must be >= 1, got 0"),
    "size type": ({"size": 3.0}, TypeError, r"size must be an integer, got float"),
    "eps": ({"eps": 0.0}, ValueError, r"eps must be > 0, got 0.0"),
    "cu rows": ({"cu_seqlens": cu(0, 6)}, ShapeError, r"q must have B = 1 with cu_seqlens .* got B = 2"),
    "cu dtype": ({"cu_seqlens": cu(0, 6, dtype=torch.int64)}, ShapeError, r"cu_seqlens must be torch.int32"),
    "backend": (
        {"backend": "eagr"},
        ValueError,
        r"backend must be one of .* got 'eagr' \(did you mean 'eager'\?\)",
    ),
    "triton": (
        {"backend": "triton"},
        BackendError,
        r"no backend for backend='triton' \(triton: there is no Triton kernel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_named(name):
    change, error, text = REFUSED[name]
    with pytest.raises(error, match="ttt_scan: " + text):
        ttt_scan(**good() | change)


@pytest.mark.parametrize(
    ("offsets", "text"), [((1, 6), "start at 0"), ((0, 4, 2, 6), "never fall"), ((0, 5), "end at N = 6")]
)
def test_offsets_that_do_not_span_the_tokens_are_refused(offsets, text):
    one = {name: x[:1] if name in ("q", "k", "v", "rate") else x for name, x in good().items()}
    with pytest.raises(ShapeError, match=f"ttt_scan: cu_seqlens must {text}"):
        ttt_scan(**one, cu_seqlens=cu(*offsets))


def test_good_arguments_pass():
    o, (W, b) = ttt_scan(**good())
    assert (o.shape, W.shape, b.shape) == ((B, N, H, D), (B, H, D, D), (B, H, D))
