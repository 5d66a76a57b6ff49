"""LinFusion equals the published implementation: one attention, whole UNets, names of its files."""

import pytest
import torch

from linzoo.diffusion import linearize

from ..parity_fill import assert_matches, figures, fill, random

diffusers = pytest.importorskip("diffusers")
ATTENTION = figures("linfusion_attention")["cases"]
UNET = figures("linfusion_unet")
UNETS = UNET["cases"]
SHAPES = figures("linfusion_checkpoint_shapes")["models"]
TOLERANCE = 1e-9


class OneAttention(diffusers.UNet2DConditionModel):
    """As little of a UNet as a swap needs: one attention named as in a transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        torch.nn.Module.__init__(self)
        from diffusers.models.attention_processor import Attention

        self.attn1 = Attention(dim, heads=heads, dim_head=dim // heads)
        self.register_to_config(cross_attention_dim=768, down_block_types=["a"])


OneAttention.__name__ = "UNet2DConditionModel"


def swapped_attention(case: dict) -> torch.nn.Module:
    model = OneAttention(case["dim"], case["heads"]).double()
    linearize(model, "linfusion", projection_mid_dim=case["projection_mid_dim"])
    model.attn1.load_state_dict(fill(case["describe"]["state_dict"], rounded=False))
    return model.attn1


@pytest.mark.parametrize("number", range(len(ATTENTION)))
def test_the_attention_equals_the_published_one_with_every_gradient(number):
    case = ATTENTION[number]
    attention = swapped_attention(case)
    x = random(case["input"]["shape"], case["input"]["seed"]).requires_grad_()
    y = attention(x)
    assert_matches(y, case["output"], TOLERANCE)
    parameters = dict(attention.named_parameters())
    loss = (y * random(y.shape, case["probe_seed"])).sum()
    grads = torch.autograd.grad(loss, [x, *parameters.values()])
    assert_matches(grads[0], case["grad_input"], TOLERANCE, "gradient of the input")
    assert set(parameters) == set(case["grad_param_l2"])
    for name, grad in zip(parameters, grads[1:], strict=True):
        wanted = case["grad_param_l2"][name]
        assert abs(grad.norm().item() - wanted) <= TOLERANCE * wanted, name


@pytest.fixture
def recorded_times(monkeypatch):
    """diffusers makes its tables of times with the processor's float32 exp, whose last digit differs between
    processors and moves outputs by 1e-6: take the tables as they were where the figures were recorded."""

    def table(times, dim, **_):
        rows = UNET["timestep_embeddings"][str(dim)]
        return torch.tensor([rows[str(round(t))] for t in times.flatten().tolist()])

    monkeypatch.setattr("diffusers.models.embeddings.get_timestep_embedding", table)


@pytest.mark.parametrize("number", range(len(UNETS)), ids=[case["name"] for case in UNETS])
def test_a_swapped_unet_equals_the_published_one(number, recorded_times):
    case = UNETS[number]
    unet = diffusers.UNet2DConditionModel(**case["unet_config"]).double().eval()
    narrow = case["projection_mid_dim_rule"] is not None
    table = {e["module_name"]: e["projection_mid_dim"] for e in case["modules_list"]}
    handle = linearize(unet, "linfusion", projection_mid_dim=table if narrow else None)
    assert list(handle.modules) == list(table)
    unet.load_state_dict(fill({k: x.shape for k, x in unet.state_dict().items()}, rounded=False))
    assert sum(p.numel() for p in handle.parameters().values()) == case["linfusion_params"]
    inputs = case["inputs"]
    words = {}
    if inputs["added_cond"]:
        ids = torch.tensor([[64.0, 96, 0, 0, 64, 96]] * 2, dtype=torch.float64)
        words["added_cond_kwargs"] = {"text_embeds": random((2, 16), 2), "time_ids": ids}
    sample = random(inputs["sample"]["shape"], inputs["sample"]["seed"])
    text = random(inputs["encoder_hidden_states"]["shape"], inputs["encoder_hidden_states"]["seed"])
    with torch.no_grad():
        noise = unet(sample, torch.tensor(inputs["timestep"]), text, **words).sample
    assert_matches(noise, case["noise_pred"], TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_names_shapes_and_counts_of_the_published_checkpoints_are_met(name, tmp_path):
    from linzoo.diffusion.linfusion.convert import modules_list, to_official
    from linzoo.diffusion.linfusion.variants import published_for

    published = SHAPES[name]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(published["unet_config"])
    assert sum(p.numel() for p in unet.parameters()) == published["unet_params"]
    assert published_for(unet).hub_id == f"Yuanshi/{name}"
    handle = linearize(unet, "linfusion")
    listed = modules_list(handle.modules, handle.options.projection_mid_dim)
    assert listed == published["modules_list"]
    state = to_official(handle.state_dict(), list(handle.modules))
    assert len(state) == published["n_keys"] == 17 * published["modules"]
    assert sum(x.numel() for x in state.values()) == published["params"]
    first = {key: list(x.shape) for key, x in state.items() if key.startswith("0.")}
    assert first == published["first_module"]
