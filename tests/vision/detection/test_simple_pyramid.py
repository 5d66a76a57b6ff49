"""Levels of the simple feature pyramid: strides, sources, gradients, refusals."""

import pytest
import torch

pytest.importorskip("mmdet")

from linzoo.vision.detection import SimpleFeaturePyramid


def maps(channels, strides, height=128, width=192):
    return [torch.randn(2, c, height // s, width // s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ("channels", "strides", "out"),
    [
        ([64], [16], (4, 8, 16, 32, 64)),
        ([64], [16], (8, 16, 32, 64, 128)),
        ([32, 48, 64], [16, 32, 64], (4, 8, 16, 32, 64)),
        ([32, 48, 64], [16, 32, 64], (8, 16, 32, 64, 128)),
    ],
    ids=["isotropic-rcnn", "isotropic-retina", "coarse-rcnn", "coarse-retina"],
)
def test_every_level_has_its_stride(channels, strides, out):
    pyramid = SimpleFeaturePyramid(channels, strides, 24, out)
    levels = pyramid(maps(channels, strides))
    sizes = [tuple(x.shape) for x in levels]
    assert sizes == [(2, 24, -(-128 // s), -(-192 // s)) for s in out]
    assert all(x.is_contiguous() for x in levels)


def test_a_level_is_made_of_the_coarsest_map_that_is_no_coarser_else_of_the_finest():
    pyramid = SimpleFeaturePyramid([32, 48, 64], [16, 32, 64], 8, (4, 8, 16, 32, 64, 128))
    assert pyramid.sources == (0, 0, 0, 1, 2, 2)
    given = [x.requires_grad_() for x in maps([32, 48, 64], [16, 32, 64])]
    pyramid(given)[-1].square().sum().backward()
    assert [x.grad is not None for x in given] == [False, False, True]


def test_a_level_sees_its_place_of_the_map():
    pyramid = SimpleFeaturePyramid([16], [16], 8, (4, 8, 16, 32, 64)).eval()
    x = torch.randn(1, 16, 16, 16)
    moved = x.clone()
    moved[..., 12:, 12:] += 1  # the far corner: pixels 192 to 255
    for stride, a, b in zip(pyramid.out_strides, pyramid([x]), pyramid([moved]), strict=True):
        changed = (a - b).abs().amax((0, 1)) > 1e-6
        first = 192 // stride - 1  # a 3x3 convolution reaches one further
        assert not changed[:first].any() and not changed[:, :first].any()
        assert changed[-1, -1]


def test_odd_maps_and_single_tokens_are_halved_upwards():
    pyramid = SimpleFeaturePyramid([16], [16], 8, (16, 32, 64, 128))
    sizes = [tuple(x.shape[2:]) for x in pyramid([torch.randn(1, 16, 5, 1)])]
    assert sizes == [(5, 1), (3, 1), (2, 1), (1, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([64], [16, 32], 8, (8,)), "in_strides must have one entry a map"),
        (([64, 64], [32, 16], 8, (8,)), "in_strides must rise"),
        (([64], [16], 8, (16, 8)), "out_strides must rise"),
        (([64], [16], 8, (8, 24)), "powers of two .* got 24"),
        (([6], [16], 8, (4, 8)), "in_channels must be a multiple of 4 to reach stride 4"),
        (([64], [16], 0, (8,)), "integers above 0"),
        (([], [], 8, (8,)), "integers above 0"),
        (([64], [16], 8, (8.0,)), "integers above 0"),
    ],
    ids=["lengths", "in-order", "out-order", "not-a-power", "channels", "zero", "empty", "fraction"],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(*arguments)


def test_maps_of_another_backbone_are_refused():
    with pytest.raises(ValueError, match=r"must have \(64,\) channels"):
        SimpleFeaturePyramid([64], [16])([torch.randn(1, 32, 4, 4)])
