# ruff: noqa: E501 - a table, one case a line
"""Bad input: one clear error that names the argument, what it must be and what it was."""

import math

import pytest
import torch

from linzoo.kernels import BackendError, ShapeError, local_attn, merge_attn

B, H, D, E, G, P = 2, 2, 4, 3, 5, 6
GRID = (3, 4)
N = G + 12


def tokens(n=N, d=D, **kw):
    return torch.ones(B, n, H, d, **kw)


def extra(p=P, d=D, e=E, **kw):
    return tokens(p, d, **kw), tokens(p, e, **kw)


REFUSED = {  # what differs from a good call -> error, text
    "q is no tensor": ({"q": 3}, TypeError, r"q must be a tensor \(B, N, H, D\), got int"),
    "rank": ({"k": torch.ones(B, N, D)}, ShapeError, r"k must have 4 dimensions \(B, N, H, D\), got \(2, 17, 4\)"),
    "no width": ({"v": torch.ones(B, N, H, 0)}, ShapeError, r"v must have no dimension of size 0"),
    "integer": ({"q": tokens().long()}, ShapeError, r"q must be float64, float32, bfloat16 or float16, got torch.int64"),
    "k width": ({"k": tokens(d=5)}, ShapeError, r"k must have q's \(B, H, D\) = \(2, 2, 4\), got \(2, 2, 5\)"),
    "q dtype": ({"q": tokens().double()}, ShapeError, r"k must be torch.float64, q's dtype, got torch.float32"),
    "v tokens": ({"v": tokens(16, E)}, ShapeError, r"v must have k's \(B, N, H\) = \(2, 17, 2\), got"),
    "device": ({"v": tokens(d=E, device="meta")}, ShapeError, r"v must be on k's device cpu, got meta"),
    "grid type": ({"grid": 12}, TypeError, r"grid must be a pair \(height, width\), got 12"),
    "grid numbers": ({"grid": (3, 4.0)}, TypeError, r"grid width must be an integer, got float"),
    "grid of none": ({"grid": (0, 4)}, ValueError, r"grid height must be >= 1, got 0"),
    "grid of others": ({"grid": (4, 4)}, ShapeError, r"k must have 5 \+ 16 = 21 tokens \(n_global \+ grid height x width\), got 17"),
    "fewer queries": ({"q": tokens(16)}, ShapeError, r"q must have 5 \+ 12 = 17 tokens \(n_global \+ query rows x grid width\), got 16"),
    "no globals": ({"n_global": 4}, ShapeError, r"k must have 4 \+ 12 = 16 tokens .* got 17"),
    "negative globals": ({"n_global": -1}, ValueError, r"n_global must be >= 0, got -1"),
    "globals type": ({"n_global": True}, TypeError, r"n_global must be an integer, got bool"),
    "global_first": ({"global_first": "yes"}, TypeError, r"global_first must be True or False, got 'yes'"),
    "neither": ({"radius": None}, ValueError, r"exactly one of radius and window must be given, got neither"),
    "both": ({"window": 3}, ValueError, r"exactly one of radius and window must be given, got both"),
    "radius 0": ({"radius": 0}, ValueError, r"radius must be > 0, got 0"),
    "radius nan": ({"radius": math.nan}, ValueError, r"radius must be > 0, got nan"),
    "radius infinite": ({"radius": math.inf}, ValueError, r"radius must be at most 1e9 tokens, got inf"),
    "radius type": ({"radius": "8"}, TypeError, r"radius must be a Python number, got str"),
    "window even": ({"radius": None, "window": (3, 4)}, ValueError, r"window width must be odd .* got 4"),
    "window even side": ({"radius": None, "window": 2}, ValueError, r"window height must be odd .* got 2"),
    "window 0": ({"radius": None, "window": (0, 3)}, ValueError, r"window height must be >= 1, got 0"),
    "window type": ({"radius": None, "window": 3.0}, TypeError, r"window must be a pair \(height, width\), got 3.0"),
    "window triple": ({"radius": None, "window": (3, 3, 3)}, TypeError, r"window must be a pair .* got \(3, 3, 3\)"),
    "scale": ({"scale": "big"}, TypeError, r"scale must be a Python number, got str"),
    "scale nan": ({"scale": math.nan}, ValueError, r"scale must be finite, got nan"),
    "extra type": ({"extra_kv": tokens(P)}, TypeError, r"extra_kv must be None or a pair of tensors \(keys, values\), got Tensor"),
    "extra width": ({"extra_kv": extra(d=5)}, ShapeError, r"extra_kv keys must be \(B, P, H, D\) = \(2, 6, 2, 4\), got \(2, 6, 2, 5\)"),
    "extra values": ({"extra_kv": (tokens(P), tokens(7, E))}, ShapeError, r"extra_kv values must be \(B, P, H, E\) = \(2, 6, 2, 3\), got"),
    "extra dtype": ({"extra_kv": extra(dtype=torch.float64)}, ShapeError, r"extra_kv keys must be torch.float32, q's dtype, got torch.float64"),
    "extra device": ({"extra_kv": (tokens(P), tokens(P, E, device="meta"))}, ShapeError, r"extra_kv values must be on q's device cpu, got meta"),
    "extra none": ({"extra_kv": (None, None)}, TypeError, r"extra_kv keys must be a tensor \(B, P, H, D\), got NoneType"),
    "rows type": ({"q_rows": 2}, TypeError, r"q_rows must be a pair \(first, last\), got 2"),
    "rows far": ({"q_rows": (1, 4)}, ValueError, r"q_rows must be first <= last <= 3, grid's height, got \(1, 4\)"),
    "rows turned": ({"q_rows": (2, 1)}, ValueError, r"q_rows must be first <= last <= 3, grid's height, got \(2, 1\)"),
    "rows negative": ({"q_rows": (-1, 2)}, ValueError, r"q_rows first must be >= 0, got -1"),
    "rows of others": ({"q_rows": (0, 2)}, ShapeError, r"q must have 5 \+ 8 = 13 tokens \(n_global \+ query rows x grid width\) or 8 \(without the global ones\), got 17"),
    "backend": ({"backend": "eagre"}, ValueError, r"backend must be one of .* \(did you mean 'eager'\?\)"),
    "triton here": ({"backend": "triton"}, BackendError, r"backend='triton' \(triton: (tensors are on cpu|triton is not)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_local_attn_refuses(case):
    wrong, error, text = REFUSED[case]
    good = {"q": tokens(), "k": tokens(), "v": tokens(d=E), "grid": GRID, "radius": 2, "n_global": G}
    local_attn(**good, extra_kv=extra())
    with pytest.raises(error, match="local_attn: .*" + text):
        local_attn(**(good | wrong))


def test_globals_may_be_left_out_of_partial_runs_only():
    image = tokens(12)
    with pytest.raises(
        ShapeError, match=r"k must have 5 \+ 12 = 17 tokens \(n_global \+ grid height x width\), got 12"
    ):
        local_attn(image, image, image, grid=GRID, radius=2, n_global=G)
    y, _ = local_attn(image, image, image, grid=GRID, radius=2, n_global=G, q_rows=(0, 3))
    assert y.shape == image.shape


def test_transformed_derivatives_are_refused_and_the_reference_takes_them():
    x = tokens()

    def loss(q, backend):
        return local_attn(q, x, x, grid=GRID, radius=2, n_global=G, backend=backend)[0].square().sum()

    for backend in ("auto", "eager"):
        with pytest.raises(
            BackendError, match=rf"backend must be 'reference' under torch.func.grad.* got '{backend}'"
        ):
            torch.func.grad(loss)(x, backend)
        with pytest.raises(BackendError, match="forward-mode"):
            torch.func.jvp(lambda q, b=backend: loss(q, b), (x,), (x,))
    own = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(own, "eager"), own)
    torch.testing.assert_close(torch.func.grad(loss)(x, "reference"), wanted)


def test_a_second_derivative_raises_rather_than_being_zero():
    x = tokens(dtype=torch.float64).requires_grad_()
    y, _ = local_attn(x, x, x, grid=GRID, radius=2, n_global=G)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not.*(implemented|registered|require grad)|autograd"):
        torch.autograd.grad(grad.sum(), x)


Y, LSE = torch.ones(B, N, H, E), torch.ones(B, N, H)
NOT_MERGED = {
    "none": ([], ValueError, r"parts must hold at least one pair \(y, lse\), got none"),
    "no pair": ([Y], TypeError, r"parts\[0\] must be a pair \(y, lse\), got Tensor"),
    "y shape": ([(Y, LSE), (Y[:, 1:], LSE)], ShapeError, r"parts\[1\] y must be \(B, N, H, E\) = \(2, 17, 2, 3\), got"),
    "lse shape": ([(Y, LSE[..., :1])], ShapeError, r"parts\[0\] lse must be \(B, N, H\) = \(2, 17, 2\), got"),
    "lse dtype": ([(Y, LSE.bfloat16())], ShapeError, r"parts\[0\] lse must be float32 or float64, got torch.bfloat16"),
    "device": ([(Y, LSE.to("meta"))], ShapeError, r"parts\[0\] lse must be on its y's device cpu, got meta"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_MERGED)
def test_parts_that_do_not_fit_are_not_merged(case):
    parts, error, text = NOT_MERGED[case]
    with pytest.raises(error, match="merge_attn: " + text):
        merge_attn(parts)
