"""Every entry of the recorded LightNet figures, with gradients, in float64.

Inputs are (B, heads, N, d) there and (B, N, heads, d) here. Weights are not rounded to float32 first.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from linzoo.kernels import key_softmax_attn
from linzoo.kernels.key_softmax import rotated, spread
from linzoo.vision.lightnet import LightNetAttention, MdTpe, from_official
from linzoo.vision.lightnet.lrpe import cosine_tables, grid_angles, position_tables
from linzoo.vision.lightnet.recurrence import additive_scan
from linzoo.vision.lightnet.tpe import Tpe

from ..parity_fill import assert_matches, figures, fill, random

RECORD = figures("lightnet_modules")
GRID, HEADS, DIM = tuple(RECORD["grid"]), RECORD["heads"], RECORD["dim"]
ENTRIES = RECORD["modules"]


def leaf(shape, seed, change=lambda n: n):
    return change(random(shape, seed)).requires_grad_()


def check(y, record, inputs, tolerance=1e-9):
    """Output and the gradient of sum(y probe) by every recorded name."""
    assert_matches(y, record["out"], tolerance)
    names = list(record["grads"])
    grads = torch.autograd.grad((y * random(y.shape, 7)).sum(), [inputs[n] for n in names])
    for name, grad in zip(names, grads, strict=True):
        assert_matches(grad, record["grads"][name], tolerance, f"gradient of {name}")


def tokens(x):
    """(B, heads, N, d) <-> (B, N, heads, d)."""
    return x.transpose(1, 2)


def qkv(record, key_scale=1.0):
    shapes = {n: s["shape"] for n, s in record["inputs"].items()}
    return {
        "q": leaf(shapes["q"], 1),
        "k": leaf(shapes["k"], 2, lambda n: key_scale * n),
        "v": leaf(shapes["v"], 3),
    }


# --- operators


def test_the_general_additive_operator():
    record = ENTRIES["additive_causal_general"]
    x = {**qkv(record), "g": leaf(record["inputs"]["g"]["shape"], 4, lambda n: 3 * n)}
    o, _ = additive_scan(*(tokens(x[n]) for n in ("q", "g", "v", "k")))
    check(tokens(o), record, x)


@pytest.mark.parametrize(
    ("name", "options"),
    [("lightnet_causal", {}), ("lightnet_causal_unit_prior", {"unit_prior": True})],
    ids=["from nothing", "unit prior"],
)
def test_the_causal_operator(name, options):
    record = ENTRIES[name]
    x = qkv(record)
    o, _ = additive_scan(F.silu(tokens(x["q"])), tokens(x["k"]), tokens(x["v"]), **options)
    check(tokens(o), record, x)


def test_the_causal_operator_with_large_keys():
    record = ENTRIES["lightnet_causal_large_keys"]
    x = qkv(record, 40.0)
    o, _ = additive_scan(F.silu(tokens(x["q"])), tokens(x["k"]), tokens(x["v"]))
    check(tokens(o), record, x)


def test_the_operator_of_images():
    record = ENTRIES["lightnet_noncausal"]
    x = qkv(record)
    check(tokens(key_softmax_attn(F.silu(tokens(x["q"])), tokens(x["k"]), tokens(x["v"]))), record, x)


# --- MD-TPE


def tpe_weights(seed, prefix=""):
    scale = {"norm_weight": (64,), "q": (64,), "k": (64,)}
    seeds = {"q": seed, "k": seed + 1, "log_decay": seed + 2, "norm_weight": seed + 3, "o_weight": seed + 4}
    made = {n: leaf(s, seeds[n], lambda n: 1 + 0.1 * n) for n, s in scale.items()}
    made["log_decay"] = leaf((HEADS,), seeds["log_decay"])
    made["o_weight"] = leaf((64, 64), seeds["o_weight"], lambda n: n / 8)
    return {prefix + n: w for n, w in made.items()}


def as_ours(weights, prefix=""):
    names = {"norm_weight": "norm.weight", "o_weight": "proj.weight"}
    plain = {n.removeprefix(prefix): w for n, w in weights.items()}
    return {names.get(n, n): w for n, w in plain.items()}


@pytest.mark.parametrize("form", ["matrix", "scan"])
def test_tpe_of_one_axis(form, monkeypatch):
    record = ENTRIES["tpe_1d"]
    if form == "scan":
        monkeypatch.setattr("linzoo.vision.lightnet.tpe.LONG_AXIS", 0)
    x, weights = leaf(record["inputs"]["x"]["shape"], 5), tpe_weights(20)
    module = Tpe(DIM, HEADS, dtype=torch.float64)
    y = torch.func.functional_call(module, as_ours(weights), (x,))
    check(y, record, {"x": x, **weights})


def test_md_tpe_of_two_axes():
    record = ENTRIES["md_tpe_2d"]
    x = leaf(record["inputs"]["x"]["shape"], 6)
    across, down = tpe_weights(20, "w_"), tpe_weights(30, "h_")
    ours = {
        **{f"axes.0.{n}": w for n, w in as_ours(down, "h_").items()},
        **{f"axes.1.{n}": w for n, w in as_ours(across, "w_").items()},
    }
    y = torch.func.functional_call(MdTpe(DIM, HEADS, dtype=torch.float64), ours, (x,))
    check(y, record, {"x": x, **across, **down})


# --- MD-LRPE


@pytest.mark.parametrize(
    ("name", "seed", "prefix"),
    [("md_lrpe_rotate", 8, 0), ("md_lrpe_rotate_extra_token", 9, 1)],
    ids=["grid", "one extra token"],
)
def test_md_lrpe_rotation(name, seed, prefix):
    record = ENTRIES[name]
    x = leaf(record["inputs"]["x"]["shape"], seed)
    tables = position_tables(GRID, HEADS, DIM // HEADS, "rotate", x, prefix)
    check(tokens(rotated(tokens(x), *tables)), record, {"x": x})


@pytest.mark.parametrize(
    ("name", "seed", "prefix"),
    [("md_lrpe_cosine", 8, 0), ("md_lrpe_cosine_two_extra", 11, 2)],
    ids=["grid", "two extra tokens"],
)
def test_md_lrpe_cosine(name, seed, prefix):
    record = ENTRIES[name]
    x = leaf(record["inputs"]["x"]["shape"], seed)
    theta = leaf(record["params"]["theta"]["shape"], 10, lambda n: 0.1 * n.abs())
    tables = cosine_tables(grid_angles(GRID, theta, prefix), DIM // HEADS)
    check(tokens(spread(tokens(x), *tables)), record, {"x": x, "theta": theta})


# --- whole mixers


def load(module, record):
    module.load_state_dict(from_official(fill(record["state_dict"], rounded=False)))
    return module


@pytest.mark.parametrize(
    ("name", "options"),
    [("vq_linear_attention_2d", {"keys": "silu"}), ("lightnet_attention_2d", {})],
    ids=["no softmax", "softmax"],
)
@pytest.mark.parametrize("laid_out", ["image", "row of tokens"])
def test_the_mixer_of_images(name, options, laid_out):
    record = ENTRIES[name]
    x = leaf(record["inputs"]["x"]["shape"], 12)
    module = load(LightNetAttention(DIM, HEADS, **options, dtype=torch.float64), record)
    y = module(x.unflatten(1, GRID)).flatten(1, 2) if laid_out == "image" else module(x, grid=GRID)
    check(y, record, {"x": x})


def test_the_causal_layer_of_flash_linear_attention():
    record = ENTRIES["fla_lightnet_attention_causal"]
    x = leaf(record["inputs"]["x"]["shape"], 12)
    module = LightNetAttention(
        DIM, HEADS, causal=True, form="none", gate="silu", gate_first=False, gate_rank=16, gate_bias=False,
        norm="rms", norm_eps=record["eps"], scale=(DIM // HEADS) ** -0.5, dtype=torch.float64,
    )  # fmt: skip
    check(load(module, record)(x), record, {"x": x})


def test_every_recorded_entry_is_compared():
    source = Path(__file__).read_text()
    assert [name for name in ENTRIES if f'"{name}"' not in source] == []
