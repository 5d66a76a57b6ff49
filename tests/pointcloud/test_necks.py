"""Necks against recorded figures and the authors' names, and what they refuse."""

import pytest
import torch
from torch import nn

from linzoo.kernels import ShapeError
from linzoo.pointcloud.necks import CascadeDed, ResidualFpn, SecondNeck

from ..parity_fill import assert_matches, figures, fill, random

RECORD = figures("pointcloud_checkpoint_shapes")
RECORDED = [
    ("cascade_ded_neck", "cascade_ded_neck_figures", CascadeDed, 7_751_680),
    ("base_bev_res_backbone_waymo", "base_bev_res_backbone_figures", ResidualFpn, 5_397_760),
]
recorded = pytest.mark.parametrize(("names", "runs", "neck", "count"), RECORDED, ids=[r[0] for r in RECORDED])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@recorded
def test_the_neck_has_the_official_names_shapes_and_count(names, runs, neck, count):
    model = neck(128)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == RECORD[names]["state_dict"]
    assert parameters(model) == count == RECORD[names]["params"]


@recorded
def test_the_neck_reproduces_the_recorded_output_and_input_gradient(names, runs, neck, count):
    """In float64, where the float32 records agree to 1e-5: in float32 a few ReLUs of 24 layers flip."""
    model = neck(128).double().eval()
    model.load_state_dict(fill(RECORD[names]["state_dict"]))
    given = RECORD[runs]["config"]["input"]
    x = random(given["shape"], given["seed"]).requires_grad_()
    y = model(x)
    assert_matches(y, RECORD[runs]["output"], 1e-5)
    (grad,) = torch.autograd.grad((y * random(y.shape, 7)).sum(), x)
    assert_matches(grad, RECORD[runs]["input_grad"], 1e-5, "input gradient")


@recorded
def test_the_neck_reproduces_the_recorded_output_in_float32(names, runs, neck, count):
    model = neck(128).eval()
    model.load_state_dict(fill(RECORD[names]["state_dict"]))
    given = RECORD[runs]["config"]["input"]
    with torch.no_grad():
        assert_matches(model(random(given["shape"], given["seed"]).float()), RECORD[runs]["output"], 1e-4)


def small(neck: str) -> nn.Module:
    if neck == "ded":
        return CascadeDed(6, width=8, units=2)
    if neck == "second":
        return SecondNeck(6, convs=(1, 2), widths=(8, 12), up_width=4)
    return ResidualFpn(6, widths=(8, 8, 12), up_width=4, ups=(0.5, 1, 2) if neck == "halved" else (1, 2, 4))


KINDS = pytest.mark.parametrize("kind", ["ded", "fpn", "halved", "second"])


@KINDS
def test_the_result_has_the_width_and_stride_that_the_neck_names(kind):
    neck = small(kind)
    y = neck(torch.randn(2, 6, 8, 12))
    assert y.shape == (2, neck.out_channels, 8 // neck.out_stride, 12 // neck.out_stride)
    assert neck.out_stride == (2 if kind == "halved" else 1)


@KINDS
def test_every_parameter_of_a_neck_gets_a_gradient(kind):
    neck = small(kind)
    y = neck(torch.randn(2, 6, 8, 12))
    (y * torch.randn_like(y)).sum().backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


@KINDS
def test_two_samples_equal_two_separate_calls(kind):
    neck, x = small(kind).eval(), torch.randn(2, 6, 8, 12)
    torch.testing.assert_close(neck(x), torch.cat([neck(x[:1]), neck(x[1:])]))


def test_nuscenes_first_level_is_brought_down_by_a_2x2_convolution_of_stride_2():
    conv = ResidualFpn(ups=(0.5, 1, 2)).deblocks[0][0]
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.stride, conv.bias) == ((2, 2), (2, 2), None)


def test_the_decoder_of_a_ded_ends_on_its_norm_not_on_a_relu():
    assert small("ded")(torch.randn(2, 6, 8, 12)).min() < 0


def test_seconds_neck_is_1_and_5_convolutions_a_level_at_512_channels():
    neck = SecondNeck(128)
    assert [sum(isinstance(m, nn.Conv2d) for m in level) for level in neck.blocks] == [6, 6]
    assert neck.out_channels == 512
    weights = 9 * (128 * 128 * 6 + 128 * 256 + 256 * 256 * 5) + 128 * 256 + 256 * 256 * 4
    assert parameters(neck) == weights + 2 * (6 * 128 + 6 * 256 + 2 * 256)


@pytest.mark.parametrize(("kind", "divisor"), [("ded", 4), ("fpn", 4), ("halved", 4), ("second", 2)])
def test_sizes_that_do_not_divide_are_refused(kind, divisor):
    neck = small(kind)
    with pytest.raises(ShapeError, match=rf"multiples of {divisor}, got \(1, 6, 8, 13\)"):
        neck(torch.randn(1, 6, 8, 13))


def test_a_map_of_another_width_is_refused():
    with pytest.raises(ShapeError, match=r"\(B, 6, Y, X\)"):
        small("fpn")(torch.randn(1, 5, 8, 12))


def test_levels_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="maps of several sizes"):
        ResidualFpn(ups=(1, 1, 1))
    with pytest.raises(ValueError, match="one entry a level"):
        ResidualFpn(ups=(1, 2))
    with pytest.raises(ValueError, match="one entry a level"):
        SecondNeck(6, convs=(1,))
