"""linzoo.vision.fold: the same numbers with fewer steps, on every family."""

import copy

import pytest
import timm
import torch
from torch import nn

from linzoo.vision.fold import ChannelShift, fold
from linzoo.vision.layers import LayerScale, ResidualDepthwiseConv

from ..sampling import sampled
from .slim import narrow, slim_depths

SMALL = {"dims": (16, 32, 48, 64), "depths": (2, 1, 1, 2), "heads": (1, 2, 3, 4), "num_classes": 7}
FAMILIES = ("ravlt_tiny", "mala_tiny", "nalaformer_tiny", "l2vit_tiny")
SIZES = [(64, 64), (70, 45), (33, 96)]


def trained(name, dtype=torch.float64, **kwargs):
    """A small model whose norms, layer scales and biases are not at their starting values."""
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **kwargs).to(dtype)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and value.ndim <= 1:
                value.add_(0.3 * torch.randn_like(value))
            elif value.is_floating_point():
                value.normal_(std=value[0].numel() ** -0.5)
    return model.eval()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", FAMILIES)
def test_folded_models_equal_the_model_at_1e_12_in_float64(name, size):
    model = trained(name)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    folded = fold(model)
    assert relative(folded(x), model(x)) < 1e-12
    assert relative(folded.forward_features(x), model.forward_features(x)) < 1e-12
    for got, want in zip(folded.forward_intermediates(x)[1], model.forward_intermediates(x)[1], strict=True):
        assert relative(got, want) < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_that_could_be_folded(name):
    left = [type(m) for m in fold(trained(name)).modules()]
    assert not {nn.BatchNorm2d, LayerScale, ResidualDepthwiseConv} & set(left)
    shifts = left.count(ChannelShift)
    assert shifts == (2 if name == "l2vit_tiny" else 0)  # one for each linear block


@pytest.mark.parametrize("name", FAMILIES)
def test_the_given_model_is_not_changed(name):
    model = trained(name)
    before = copy.deepcopy(model.state_dict())
    fold(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("name", FAMILIES)
def test_folding_twice_is_folding_once(name):
    once = fold(trained(name))
    twice = fold(once)
    assert all(
        torch.equal(a, b)
        for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_stays_float32_and_close(name):
    model = trained(name, torch.float32)
    x = torch.randn(1, 3, 64, 64)
    folded = fold(model)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    assert relative(folded(x), model(x)) < 2e-5


@pytest.mark.parametrize("name", sampled(FAMILIES, ["mala_tiny"]))
def test_folded_models_compile_without_graph_breaks(name):
    folded = fold(trained(name, torch.float32))
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), folded(x), rtol=1e-4, atol=1e-4)


def test_the_features_only_wrapper_is_folded_too():
    model = trained("nalaformer_tiny", features_only=True, out_indices=(0, 2))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for got, want in zip(fold(model)(x), model(x), strict=True):
        assert relative(got, want) < 1e-12


def test_a_batchnorm_whose_scale_is_zero_is_kept():
    model = trained("l2vit_tiny")
    with torch.no_grad():
        model.stages[0].blocks[1].lcm.norm.weight[3] = 0
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert relative(fold(model)(x), model(x)) < 1e-12


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"eval mode.*got training mode"):
        fold(trained("ravlt_tiny").train())
    partly = trained("ravlt_tiny")
    partly.stem.norm0.train()
    with pytest.raises(ValueError, match="eval mode"):
        fold(partly)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_numbers_is_refused(name):
    hollow = timm.create_model(name, device="meta", **SMALL).eval()
    with pytest.raises(ValueError, match=r"fold: model must hold numbers to be folded, got .*'meta'"):
        fold(hollow)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_frozen_stays_frozen_and_what_is_not_does_not(name):
    model = trained(name)
    assert all(p.requires_grad for p in fold(model).parameters())
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in fold(model).parameters())
    model.stages[0].requires_grad_(True)
    for key, parameter in fold(model).named_parameters():
        assert parameter.requires_grad == key.startswith("stages.0."), key


@pytest.mark.parametrize("name", ["inline_deit_tiny", "inline_pvt_tiny"])
def test_a_model_without_anything_to_fold_comes_back_as_an_equal_copy(name):
    model = timm.create_model(name, **narrow(name), **slim_depths(name)).eval()
    x = torch.randn(1, 3, 64, 48)
    folded = fold(model)
    assert folded is not model and folded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize("other", [nn.Linear(2, 2), "ravlt_tiny"], ids=["module", "name"])
def test_other_classes_are_refused_by_name(other):
    with pytest.raises(TypeError, match=f"must be a vision model of linzoo, got {type(other).__name__}"):
        fold(other)
