"""The rival of ``linzoo bench models --against-upstream`` computes what the model does."""

import pytest
import timm
import torch

from linzoo.tools.upstream_form import upstream_form
from linzoo.vision import fold

SMALL = {"dims": (16, 32, 48, 64), "depths": (2, 1, 1, 2), "heads": (1, 2, 3, 4), "num_classes": 7}


def lively(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **kwargs).double().eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and value.ndim <= 1:
                value.add_(0.3 * torch.randn_like(value))
            elif value.is_floating_point():
                value.normal_(std=value[0].numel() ** -0.5)
    return model


@pytest.mark.parametrize("size", [(64, 64), (70, 45)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", ["ravlt_tiny", "mala_tiny", "nalaformer_tiny", "l2vit_tiny"])
def test_the_upstream_order_of_operations_gives_the_same_logits(name, size):
    model = lively(name)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(upstream_form(model)(x), model(x), rtol=1e-9, atol=1e-9)


def test_models_without_an_upstream_are_refused():
    with pytest.raises(TypeError, match="published families"):
        upstream_form(lively("l2vit_tiny", mixers="window"))
    with pytest.raises(TypeError, match="got Linear"):
        upstream_form(torch.nn.Linear(2, 2))


def test_the_form_follows_the_weights_of_the_model():
    model = lively("ravlt_tiny")
    form = upstream_form(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        model.head.bias.add_(1)
        torch.testing.assert_close(form(x), fold(model)(x), rtol=1e-9, atol=1e-9)
