"""ScatterFormer's parts give the authors' figures: outputs and input gradients."""

import pytest
import torch

from linzoo.pointcloud.scatterformer.attention import ScatteredLinearAttention
from linzoo.pointcloud.scatterformer.feed_forward import CrossWindowFeedForward
from linzoo.pointcloud.scatterformer.pillar_pool import PillarPool
from linzoo.pointcloud.scatterformer.window_layer import WindowLayer
from linzoo.pointcloud.voxels import Voxels

from ..parity_fill import assert_matches, figures, fill, random

RECORDED = figures("scatterformer")
LAYER = RECORDED["scatterformer_layer"]
CELLS = LAYER["coords_bzyx"]


def filled(module: torch.nn.Module, recorded: dict) -> torch.nn.Module:
    shapes = {k: list(v.shape) for k, v in module.state_dict().items()}
    assert shapes == recorded["state_dict"]
    assert sum(p.numel() for p in module.parameters()) == recorded["params"]
    module.load_state_dict(fill(recorded["state_dict"]))
    return module.eval()


def voxels_of(recorded: dict) -> Voxels:
    given = recorded["config"]["input"]
    features = random(given["shape"], given["seed"]).float().requires_grad_()
    shape = tuple(LAYER["config"]["spatial_shape_zyx"])
    return Voxels(features=features, coords=torch.tensor(CELLS), shape=shape, batch_size=2)


def in_recorded_order(voxels: Voxels, coords: list) -> torch.Tensor:
    """Rows put where the recording has the same cell; any order of the rows is right."""
    place = {tuple(c): i for i, c in enumerate(voxels.coords.tolist())}
    assert len(place) == len(coords) == len(voxels)
    return voxels.features[[place[tuple(c)] for c in coords]]


def assert_output_and_input_gradient(output, rows, recorded, tolerance):
    assert_matches(output, recorded["output"], tolerance)
    probe = random(recorded["output"]["shape"], 7).to(output.dtype)
    (gradient,) = torch.autograd.grad((output * probe).sum(), rows)
    assert_matches(gradient, recorded["input_grad"], tolerance, "input gradient")


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", list(RECORDED["cases"]))
def test_attention(case, dtype, tolerance, backend):
    recorded = RECORDED["cases"][case]
    config = recorded["config"]
    words = {"qkv_bias": config["qkv_bias"], "backend": backend}
    module = filled(ScatteredLinearAttention(config["dim"], config["num_heads"], **words), recorded)
    rows = random(config["input"]["shape"], config["input"]["seed"]).to(dtype).requires_grad_()
    ends = torch.tensor([0, *config["window_counts"]]).cumsum(0).to(torch.int32)
    output = module.to(dtype)(rows, ends)
    assert_output_and_input_gradient(output, rows, recorded, tolerance)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_window_layer(training):
    config = LAYER["config"]
    words = {"layers": config["num_layers"]}
    module = filled(WindowLayer(config["dim"], config["num_heads"], config["win_size"], **words), LAYER)
    voxels = voxels_of(LAYER)
    output = in_recorded_order(module.train(training)(voxels), LAYER["output_coords_bzyx"])
    recorded = LAYER["train_mode"] if training else LAYER
    assert_output_and_input_gradient(output, voxels.features, recorded, 1e-4)


def test_cross_window_feed_forward():
    recorded = RECORDED["cwi_ffn"]
    module = filled(CrossWindowFeedForward(64, recorded["config"]["conv_size"]), recorded)
    voxels = voxels_of(recorded)
    output = module(voxels)
    assert torch.equal(output.coords, voxels.coords)
    assert_output_and_input_gradient(output.features, voxels.features, recorded, 1e-4)


def test_attentive_pillar_pooling():
    recorded = RECORDED["attn_pillar_pool"]
    config = recorded["config"]
    module = filled(PillarPool(64, config["pillar_size"], heads=config["heads"]), recorded)
    voxels = voxels_of(recorded)
    output = module(voxels)
    assert output.coords.tolist() == recorded["output_coords_bzyx"]
    assert output.shape == (1, *voxels.shape[1:]) and output.batch_size == 2
    assert_output_and_input_gradient(output.features, voxels.features, recorded, 1e-4)
