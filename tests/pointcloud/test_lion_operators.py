"""LION's operators against figures of the published implementations: outputs, input gradients, names."""

import math

import pytest
import torch

from linzoo.kernels import decay_scan
from linzoo.pointcloud.lion.operators import make_operator

from ..parity_fill import assert_matches, figures, fill, random

RECORD = figures("lion_operators")["cases"]
WORDS = {  # constructor words of each recorded case
    "retnet_d64_h2_T160": ("retnet", {"heads": 2}),
    "retnet_d128_h4_T128": ("retnet", {"heads": 4}),
    "retnet_d64_h2_T40": ("retnet", {"heads": 2}),
    "mamba_d64_T70": ("mamba", {}),
    "rwkv_d64_h2_layer0_T50": ("rwkv", {"heads": 2}),
    "rwkv_d64_h2_layer5_T50": ("rwkv", {"heads": 2}),
    "xlstm_d64_T48": ("mlstm", {}),
    "ttt_d64_h4_T56": ("ttt", {}),
    "ttt_d64_h4_T64": ("ttt", {}),
}
RETNET = [name for name in WORDS if name.startswith("retnet")]


def block(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """The recorded case with its filled weights."""
    case = RECORD[name]
    operator, words = WORDS[name]
    config = case["config"]
    place = (config.get("layer_id", 0), config.get("n_layer", 34))
    model = make_operator(operator, config["d_model"], *place, **words)
    model.load_state_dict(fill(case["state_dict"]))
    return model.to(dtype).eval()


def output_and_gradient(model: torch.nn.Module, name: str, dtype: torch.dtype):
    config = RECORD[name]["config"]["input"]
    x = random(config["shape"], config["seed"]).to(dtype).requires_grad_()
    y = model(x)
    (grad,) = torch.autograd.grad((y * random(y.shape, 7).to(dtype)).sum(), x)
    return y, grad


@pytest.mark.parametrize("name", WORDS)
def test_outputs_and_input_gradients_are_the_recorded_ones_in_float64(name):
    tolerance = 1e-6 if name.startswith("ttt") else 1e-9  # upstream keeps parts of TTT in float32
    y, grad = output_and_gradient(block(name), name, torch.float64)
    assert_matches(y, RECORD[name]["output"], tolerance)
    assert_matches(grad, RECORD[name]["input_grad"], tolerance, "input gradient")


@pytest.mark.parametrize("name", WORDS)
def test_float32_is_within_its_digits_of_the_recorded_figures(name):
    y, grad = output_and_gradient(block(name, torch.float32), name, torch.float32)
    assert_matches(y, RECORD[name]["output"], 1e-4)
    tolerance = 2e-3 if name.startswith("xlstm") else 1e-4  # a maximum in mLSTM's normaliser
    assert_matches(grad, RECORD[name]["input_grad"], tolerance, "input gradient")


@pytest.mark.parametrize("name", WORDS)
def test_names_shapes_and_numbers_of_parameters_are_the_recorded_ones(name):
    model = block(name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == RECORD[name]["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == RECORD[name]["params"]


@pytest.mark.parametrize("name", RETNET)
def test_the_core_of_retnet_is_a_scan_with_symmetric_blocks_and_the_decays_of_the_block(name):
    core, model = RECORD[name]["core_operator"], block(name)
    _, heads, tokens, value_dim = core["output"]["shape"]
    width = RECORD[name]["config"]["d_model"] // heads
    sizes = {"q": width, "k": width, "v": value_dim}
    q, k, v = (random((1, heads, tokens, d), core[f"{x}_seed"]).transpose(1, 2) for x, d in sizes.items())
    log_decay = model.multi_scale_retention.log_decay(q)
    wanted = [math.log1p(-(2.0 ** (-5 - h))) for h in range(heads)]
    torch.testing.assert_close(log_decay, torch.tensor(wanted, dtype=torch.float64), rtol=1e-15, atol=0)
    o, _ = decay_scan(q, k, v, log_decay, symmetric_block=64, scale=width**-0.5)
    assert_matches(o.transpose(1, 2), core["output"], 1e-9)


CHECKPOINTS = figures("pointcloud_checkpoint_shapes")
BACKBONES = {  # of the official files
    "lion_RetNet_128": ("retnet", 128),
    "lion_RetNet_64": ("retnet", 64),
    "lion_Mamba_128": ("mamba", 128),
    "lion_Mamba_64": ("mamba", 64),
    "lion_RWKV_128": ("rwkv", 128),
    "lion_RWKV_64": ("rwkv", 64),
    "lion_xLSTM_64": ("xlstm", 64),
    "lion_TTT_64": ("ttt", 64),
}
PLACES = {  # of four blocks among the 34 of the network
    "linear_1.encoder.0.blocks.0.": 0,
    "linear_1.encoder.0.blocks.1.": 1,
    "linear_out.blocks.0.": 32,
    "linear_out.blocks.1.": 33,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_have_the_names_and_shapes_of_the_official_files(name, place):
    operator, channels = BACKBONES[name]
    model = make_operator(operator, channels, PLACES[place], 34)
    wanted = {
        key.removeprefix(place): shape
        for key, shape in CHECKPOINTS[name]["linear_out_and_first"].items()
        if key.startswith(place)
    }
    assert wanted
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == wanted
