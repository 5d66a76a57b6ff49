"""Every variant of the pyramid families computes what the authors' code does, on the same weights."""

import importlib

import pytest
import timm
import torch

import linzoo.vision  # noqa: F401
from linzoo.vision import mala, nalaformer, ravlt

from ..parity_fill import assert_matches, condition, figures, fill, random

VARIANTS = [*ravlt.VARIANTS, *mala.VARIANTS, *nalaformer.VARIANTS]
SLOW = [pytest.param(v, marks=pytest.mark.slow) if v.endswith(("base", "large")) else v for v in VARIANTS]
F64, F32 = 1e-9, 5e-6


def family(name):
    return importlib.import_module(f"linzoo.vision.{name.split('_')[0]}")


def forward_with_intermediates(model, x):
    """What the figures name: stem, stages, downsamplings, pooled, logits."""
    seen, hooks = {}, []

    def keep(name):
        return lambda module, args, output: seen.__setitem__(name, output)

    hooks.append(model.stem.register_forward_hook(keep("stem")))
    hooks.append(model.head_drop.register_forward_hook(keep("pooled")))
    for i, stage in enumerate(model.stages):
        hooks.append(stage.register_forward_hook(keep(f"stage{i}")))
        if i:
            hooks.append(stage.downsample.register_forward_hook(keep(f"downsample{i - 1}")))
    with torch.inference_mode():
        seen["logits"] = model(x)
    for hook in hooks:
        hook.remove()
    return seen


def check_case(model, case, dtype):
    got = forward_with_intermediates(model, random(**case["input"]).to(dtype))
    assert got["logits"].argmax(-1).tolist() == case["argmax"]
    double = dtype == torch.float64
    for name, figure in case.items():
        if name not in ("input", "argmax"):
            # single values of a float32 map stray further than its l2 norm; whole maps are compared below
            values = 1 if double or name == "logits" else 4
            assert_matches(got[name], figure, F64 if double else F32, name, values)
    return got


def plain_cases(record, variant, config):
    """Those of a large variant run with ``--all-cases`` only: its conditioned case tells more."""
    large = variant.removesuffix("_384").endswith(("base", "large"))
    return record["cases"] if not large or config.getoption("--all-cases") else ()


@pytest.mark.parametrize("variant", SLOW)
def test_outputs_and_stages_equal_the_authors_in_float64_and_float32(variant, request):
    record = figures(variant)
    official = fill(record["state_dict"], record["keep"])
    model = timm.create_model(variant, device="meta").eval()
    assert sum(p.numel() for p in model.parameters()) == record["params"]

    model.load_state_dict(family(variant).from_official(official), strict=True, assign=True)
    for case in plain_cases(record, variant, request.config):
        check_case(model, case, torch.float64)

    official = condition(official, record["conditioned"])
    model.load_state_dict(family(variant).from_official(official), strict=True, assign=True)
    (case,) = record["conditioned"]["cases"]
    double = check_case(model, case, torch.float64)
    single = check_case(model.float(), case, torch.float32)
    for name, expected in double.items():
        error = (single[name] - expected).norm() / expected.norm()
        assert error <= F32, f"{name}: float32 is off by {error:.2e}"
