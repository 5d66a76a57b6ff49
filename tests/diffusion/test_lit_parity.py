"""LiT's attention against figures of a module written from the paper: no code of the authors is public.

They pin our reading of it, not the authors' code. Weights in full float64, names qkv, proj, dwc.
"""

import pytest
import torch
import torch.nn.functional as F

from ..parity_fill import assert_matches, figures, fill, random

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

from linzoo.diffusion.lit.attention import LitProcessor, lit_attention, relu_attention  # noqa: E402
from linzoo.diffusion.lit.options import LitOptions  # noqa: E402
from linzoo.diffusion.lit.weights import start  # noqa: E402

CASES = figures("lit_attention")["cases"]
TOLERANCE = 1e-9


def attention(width: int, **options):
    """An attention of diffusers with four heads, swapped without a model around it."""
    from diffusers.models.attention_processor import Attention

    module = Attention(query_dim=width, heads=4, dim_head=width // 4, bias=True).double()
    module.__class__ = lit_attention(Attention)
    module.processor = LitProcessor()
    module.lit = LitOptions(**options)
    start(module, module.lit)
    return module


def of_case(case: dict):
    module = attention(
        case["dim"],
        heads=case["heads"],
        kernel_size=case["kernel"],
        conv_on=case["conv_on"],
        eps=case["eps"],
    )
    weights = fill(case["describe"]["state_dict"], rounded=False)
    named = {
        f"{name}.{part}": rows
        for part in ("weight", "bias")
        for name, rows in zip(("to_q", "to_k", "to_v"), weights[f"qkv.{part}"].chunk(3), strict=True)
    }
    named |= {f"to_out.0.{part}": weights[f"proj.{part}"] for part in ("weight", "bias")}
    named |= {f"conv.{part}": weights[f"dwc.{part}"] for part in ("weight", "bias")}
    module.load_state_dict(named)
    return module


def quadratic(module, x, grid):
    """The paper's formulas with the (N, N) weights written out, and the follow-up's forms of eps."""
    lit = module.lit
    q, k, v = (to(x).unflatten(-1, (lit.heads, -1)) for to in (module.to_q, module.to_k, module.to_v))
    phi = 0 if lit.eps_on == "sum" else lit.eps
    w = torch.einsum("bihd,bjhd->bhij", q.relu() + phi, k.relu() + phi)
    total = w.sum(-1, keepdim=True)
    eps = lit.eps if lit.eps_on == "sum" else lit.eps * x.shape[1]
    y = torch.einsum("bhij,bjhd->bihd", w / (total + eps), v).flatten(2)
    if lit.kernel_size:
        u = x if lit.conv_on == "x" else v.flatten(2)
        image = u.transpose(1, 2).unflatten(2, grid)
        padding = lit.kernel_size // 2
        image = F.conv2d(image, module.conv.weight, module.conv.bias, padding=padding, groups=image.shape[1])
        y = y + image.flatten(2).transpose(1, 2)
    return module.to_out[0](y)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_lit_equals_the_recorded_figures_with_the_gradient(number):
    case = CASES[number]
    module = of_case(case)
    assert sum(p.numel() for p in module.parameters()) == case["describe"]["params"]
    x = random(case["input"]["shape"], case["input"]["seed"]).requires_grad_()
    y = module(x, grid=tuple(case["grid"]))
    assert_matches(y, case["output"], TOLERANCE)
    (y * random(y.shape, case["probe_seed"])).sum().backward()
    assert_matches(x.grad, case["grad_input"], TOLERANCE, "gradient of the input")


FORMS = [
    {},
    {"conv_on": "x"},
    {"eps_on": "mean"},
    {"eps": 0.5},
    {"eps": 0.5, "eps_on": "mean"},
    {"heads": 1, "kernel_size": 3},
    {"kernel_size": None},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_equals_the_quadratic_formula_with_every_gradient(form):
    module = attention(24, **{"heads": 2, "conv_init": "random"} | form)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = random((2, 35, 24), 0).requires_grad_()
    leaves = [x, *module.parameters()]
    probe = random((2, 35, 24), 7)
    got, want = module(x, grid=(5, 7)), quadratic(module, x, (5, 7))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    gradients = (torch.autograd.grad((y * probe).sum(), leaves) for y in (got, want))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_tokens_whose_features_are_all_zero_read_nothing():
    q = -torch.ones(1, 3, 2, 4, dtype=torch.float64)
    k, v = random((1, 3, 2, 4), 1), random((1, 3, 2, 4), 2)
    assert torch.equal(relu_attention(q, k, v), torch.zeros_like(v))
