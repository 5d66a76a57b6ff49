"""What the sparse convolutions refuse, and in which words."""

import re

import pytest
import torch

from linzoo.kernels import (
    BackendError,
    ShapeError,
    depthwise_sparse_conv,
    sparse_conv,
    strided_pairs,
    submanifold_pairs,
)

SHAPE = (4, 5, 6)
COORDS = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 3, 4, 5]])


def changed(row: int, column: int, value: int) -> torch.Tensor:
    coords = COORDS.clone()
    coords[row, column] = value
    return coords


REFUSED_COORDS = [
    ([[0, 0, 0, 0]], TypeError, "coords must be a tensor (M, 4), got list"),
    (COORDS[:, :3], ShapeError, "coords must be (M, 4) rows (b, z, y, x), got (3, 3)"),
    (COORDS.int(), ShapeError, "coords must be int64, got torch.int32"),
    (changed(0, 0, -1), ValueError, "coords b must be in 0 .. "),
    (changed(1, 1, 4), ValueError, "coords z must be in 0 .. 3 for shape (z, y, x) = (4, 5, 6), got 0 .. 4"),
    (changed(1, 2, 5), ValueError, "coords y must be in 0 .. 4"),
    (changed(1, 3, 6), ValueError, "coords x must be in 0 .. 5"),
    (
        changed(2, 3, -1),
        ValueError,
        "coords x must be in 0 .. 5 for shape (z, y, x) = (4, 5, 6), got -1 .. 1",
    ),
    (COORDS + torch.tensor([2**56, 0, 0, 0]), ValueError, "coords b must be in 0 .. "),
    (COORDS[[0, 2, 1, 2]], ValueError, "coords must have no row twice, got rows 1 and 3 with the same cell"),
]


@pytest.mark.parametrize(("coords", "kind", "text"), REFUSED_COORDS, ids=lambda x: str(x)[:40])
def test_coordinates_that_are_no_cells_or_twice_the_same_are_refused(coords, kind, text):
    for op, words in ((submanifold_pairs, ()), (strided_pairs, (3, 2, 1))):
        arguments = (coords, SHAPE, *words)
        with pytest.raises(kind, match=re.escape(f"{op.__name__}: {text}")):
            op(*arguments)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: submanifold_pairs(COORDS, 4), TypeError, "shape must be three cell counts (z, y, x), got 4"),
        (lambda: submanifold_pairs(COORDS, (4, 5)), TypeError, "shape must be an integer or three (z, y, x)"),
        (lambda: submanifold_pairs(COORDS, (4, 0, 6)), ValueError, "shape along y must be >= 1, got 0"),
        (lambda: submanifold_pairs(COORDS, SHAPE, 2), ValueError, "kernel_size must be odd along every axis"),
        (lambda: submanifold_pairs(COORDS, SHAPE, 2.5), TypeError, "kernel_size must be an integer or three"),
        (
            lambda: strided_pairs(COORDS, SHAPE, (3, 1), 1),
            TypeError,
            "kernel_size must be an integer or three",
        ),
        (lambda: strided_pairs(COORDS, SHAPE, 3, 0), ValueError, "stride along z must be >= 1, got 0"),
        (lambda: strided_pairs(COORDS, SHAPE, 3, 1, (0, 0, -1)), ValueError, "padding along x must be >= 0"),
        (
            lambda: strided_pairs(COORDS, SHAPE, (1, 8, 1), 1, 1),
            ValueError,
            "kernel_size must fit the padded grid (z, y, x) = (6, 7, 8), got (1, 8, 1)",
        ),
    ],
    ids=range(9),
)
def test_geometry_that_makes_no_convolution_is_refused(call, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        call()


PAIRS = submanifold_pairs(COORDS, SHAPE)
X, WEIGHT = torch.randn(3, 4), torch.randn(5, 3, 3, 3, 4)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor (M, Cin), got list"),
        ({"x": X[0]}, ShapeError, "x must have 2 dimensions (M, Cin), got (4,)"),
        ({"x": X[:, :0]}, ShapeError, "x must have at least 1 channel in (M, Cin), got (3, 0)"),
        ({"x": X.long()}, ShapeError, "x must be float64, float32, bfloat16 or float16, got torch.int64"),
        ({"x": X[:2]}, ShapeError, "x must have the 3 rows that pairs were made for, got 2"),
        ({"x": X.to("meta")}, ShapeError, "pairs must be on x's device meta, got cpu"),
        ({"pairs": (1, 2)}, TypeError, "pairs must be a ConvPairs, got tuple"),
        ({"weight": WEIGHT[:, :1]}, ShapeError, "weight must be [Cout, kz, ky, kx, Cin] = (5, 3, 3, 3, 4)"),
        ({"weight": WEIGHT[..., :3]}, ShapeError, "weight must be [Cout, kz, ky, kx, Cin] = (5, 3, 3, 3, 4)"),
        ({"weight": WEIGHT[:0]}, ShapeError, "weight must have no dimension of size 0"),
        (
            {"weight": WEIGHT.double()},
            ShapeError,
            "weight must be torch.float32, x's dtype, got torch.float64",
        ),
        ({"weight": None}, TypeError, "weight must be a tensor [Cout, kz, ky, kx, Cin], got NoneType"),
        ({"bias": torch.randn(4)}, ShapeError, "bias must be (Cout,) = (5,), got (4,)"),
        ({"bias": torch.randn(5).half()}, ShapeError, "bias must be torch.float32, x's dtype"),
        ({"backend": "egaer"}, ValueError, "got 'egaer' (did you mean 'eager'?)"),
    ],
    ids=range(15),
)
def test_arguments_that_do_not_fit_are_refused(words, kind, text):
    given = {"x": X, "weight": WEIGHT, "pairs": PAIRS} | words
    with pytest.raises(kind, match="sparse_conv: .*" + re.escape(text)):
        sparse_conv(**given)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            {"weight": torch.randn(3, 3, 3, 5)},
            "weight must be [kz, ky, kx, C] = (3, 3, 3, 4), got (3, 3, 3, 5)",
        ),
        ({"x": X[:2]}, "x must have the 3 rows that pairs were made for, got 2"),
    ],
    ids=range(2),
)
def test_depthwise_arguments_that_do_not_fit_are_refused(words, text):
    given = {"x": X, "weight": torch.randn(3, 3, 3, 4), "pairs": PAIRS} | words
    with pytest.raises(ShapeError, match="depthwise_sparse_conv: " + re.escape(text)):
        depthwise_sparse_conv(**given)


def test_a_backend_asked_for_by_name_says_why_it_cannot_run(monkeypatch):
    from linzoo.kernels.sparse_conv import spconv_backend

    with pytest.raises(BackendError, match=r"triton: tensors are on cpu, needs cuda"):
        sparse_conv(X, WEIGHT, PAIRS, backend="triton")
    monkeypatch.setattr(spconv_backend, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"spconv: spconv is not installed \(pip install spconv-cu126"):
        sparse_conv(X, WEIGHT, PAIRS, backend="spconv")
    monkeypatch.setattr(spconv_backend, "find_spec", lambda name: "found")
    with pytest.raises(BackendError, match=r"spconv: tensors are on cpu, needs cuda"):
        sparse_conv(X, WEIGHT, PAIRS, backend="spconv")
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'spconv'"):
        depthwise_sparse_conv(X, WEIGHT[0], PAIRS, backend="spconv")


def test_spconv_takes_two_dtypes_and_is_never_automatic(monkeypatch):
    from torch._subclasses import FakeTensorMode

    from linzoo.kernels.dispatch import choose
    from linzoo.kernels.sparse_conv import BACKENDS, spconv_backend

    monkeypatch.setattr(spconv_backend, "find_spec", lambda name: "found")
    with FakeTensorMode():
        x = torch.empty(3, 4, device="cuda")
        assert spconv_backend.why_no_spconv(x) is None
        assert choose("sparse_conv", BACKENDS, "spconv", x) == "spconv"
        assert choose("sparse_conv", BACKENDS, "auto", x) == "triton"
        assert choose("sparse_conv", BACKENDS, "auto", x.double()) == "eager"
        assert "takes float32 and float16, got torch.float64" in spconv_backend.why_no_spconv(x.double())


def test_transformed_derivatives_are_for_the_reference():
    def loss(x, backend):
        return sparse_conv(x, WEIGHT, PAIRS, backend=backend).sum()

    with pytest.raises(
        BackendError, match=r"sparse_conv: backend must be 'reference' under torch\.func\.grad"
    ):
        torch.func.grad(lambda x: loss(x, "auto"))(X)
    x = X.clone().requires_grad_()
    loss(x, "eager").backward()
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x, "reference"))(X), x.grad)


def test_a_second_derivative_is_refused_not_zero():
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sparse_conv(x, WEIGHT, PAIRS).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()
