"""LinFusion: where the swap starts, its files, the report, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from linzoo.diffusion import LinFusion, linearize, linearized, unlinearize

diffusers = pytest.importorskip("diffusers")
CONFIG = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 8,
}


@pytest.fixture
def unet():
    return diffusers.UNet2DConditionModel(**CONFIG).eval()


def predict(unet, height: int = 8, width: int = 8) -> torch.Tensor:
    dtype = next(unet.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 4, height, width, generator=generator).to(dtype)
    text = torch.randn(2, 5, 768, generator=generator).to(dtype)
    with torch.no_grad():
        return unet(sample, 10, text).sample


def test_inheriting_starts_at_linear_attention_with_the_softmax_models_projections(unet):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    attention = unet.get_submodule(name)
    x = torch.randn(2, 12, 16)
    q, k, v = (getattr(attention, f"to_{t}")(x).unflatten(-1, (attention.heads, -1)) for t in "qkv")
    q, k = (torch.nn.functional.elu(t) + 1 for t in (q, k))
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k) / k.shape[1]
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-4)
    wanted = attention.to_out[0](torch.einsum("bhnm,bmhe->bnhe", weights, v).flatten(2))
    linearize(unet, "linfusion")
    torch.testing.assert_close(attention(x), wanted)


def test_without_mlps_inheriting_halves_the_projections_because_x_enters_twice(unet):
    other = diffusers.UNet2DConditionModel(**CONFIG).eval()
    other.load_state_dict(unet.state_dict())
    linearize(unet, "linfusion", projection_mid_dim=-1)
    linearize(other, "linfusion")
    torch.testing.assert_close(predict(unet), predict(other))


def test_the_mlps_of_a_frozen_model_are_frozen_and_a_context_is_refused(unet):
    unet.requires_grad_(False)
    handle = linearize(unet, "linfusion")
    assert not any(p.requires_grad for p in handle.parameters().values())
    attention = next(iter(handle.modules.values()))
    with pytest.raises(ValueError, match="encoder_hidden_states must be None"):
        attention(torch.zeros(1, 4, 16), torch.zeros(1, 3, 16))


def test_random_projections_are_not_the_softmax_models(unet):
    before = {n: p.clone() for n, p in unet.named_parameters()}
    handle = linearize(unet, "linfusion", init="random")
    for name, parameter in handle.parameters().items():
        if name in before and parameter.dim() > 1:
            assert not torch.equal(parameter, before[name]), name


def test_the_mlps_and_every_projection_change_the_output_and_get_gradients(unet):
    handle = linearize(unet, "linfusion", init="random")
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 768)
    unet(sample, 10, text).sample.square().sum().backward()
    for name, parameter in handle.parameters().items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_unlinearize_gives_the_same_bits_also_after_training_and_casting(unet):
    wanted, half = predict(unet), predict(unet.bfloat16())
    unet.float()
    unet = diffusers.UNet2DConditionModel(**CONFIG).eval()
    wanted = predict(unet)
    half = diffusers.UNet2DConditionModel(**CONFIG).bfloat16().eval()
    half.load_state_dict(unet.state_dict())
    handle = linearize(unet, "linfusion")
    with torch.no_grad():
        for parameter in handle.parameters().values():
            parameter.add_(0.1)
    assert not torch.equal(predict(unet), wanted)
    unet.bfloat16()
    handle.unlinearize()
    assert torch.equal(predict(unet), predict(half))
    assert linearized(unet) is None and type(unet) is diffusers.UNet2DConditionModel
    assert not any("to_q_" in name for name, _ in unet.named_modules())


def test_files_are_the_authors_and_come_back_bit_for_bit(unet, tmp_path):
    handle = linearize(unet, "linfusion", init="random", projection_mid_dim=8)
    wanted = predict(unet)
    handle.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "LinFusion"
    assert config["modules_list"][0] == {
        "module_name": "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "dim_n": 16,
        "heads": 2,
        "projection_mid_dim": 8,
    }
    state = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert len(state) == 17 * len(config["modules_list"])
    assert state["1.to_q_.3.weight"].shape == (16, 8)
    unlinearize(unet)
    linearize(unet, "linfusion", weights=tmp_path)
    assert torch.equal(predict(unet), wanted)


def test_the_authors_entry_point_finds_the_family_and_the_folder(unet, tmp_path, monkeypatch):
    linearize(unet, "linfusion", init="random").save_pretrained(tmp_path)
    wanted = predict(unet)
    unlinearize(unet)
    asked = []

    def hub(repo, file):
        asked.append(repo)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    LinFusion.construct_for(unet=unet)
    assert set(asked) == {"Yuanshi/LinFusion-1-5"}
    assert torch.equal(predict(unet), wanted)
    unlinearize(unet)
    handle = LinFusion.construct_for(unet=unet, load_pretrained=False)
    assert set(handle.options.projection_mid_dim.values()) == {None}
    with pytest.raises(ValueError, match="exactly one of pipeline and unet"):
        LinFusion.construct_for()


def broken(state: dict, how: str) -> dict:
    if how == "missing":
        return {k: t for k, t in state.items() if k != "1.to_k_.3.bias"}
    if how == "unexpected":
        return {**state, "1.to_w.weight": torch.zeros(2)}
    return {**state, "0.to_v.weight": torch.zeros(16, 15)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "1 missing: 1.to_k_.3.bias"),
        ("unexpected", "1 unexpected: 1.to_w.weight"),
        ("shape", r"0.to_v.weight is \(16, 15\), must be \(16, 16\)"),
    ],
)
def test_damaged_files_are_refused_by_name_and_nothing_changes(unet, tmp_path, how, message):
    linearize(unet, "linfusion").save_pretrained(tmp_path)
    unlinearize(unet)
    wanted = predict(unet)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(broken(load_file(path), how), path)
    with pytest.raises(ValueError, match=message):
        linearize(unet, "linfusion", weights=tmp_path)
    assert torch.equal(predict(unet), wanted) and linearized(unet) is None


def test_files_of_another_unet_are_refused(unet, tmp_path):
    linearize(unet, "linfusion").save_pretrained(tmp_path)
    wider = diffusers.UNet2DConditionModel(**CONFIG | {"block_out_channels": (24, 32)})
    with pytest.raises(
        ValueError, match=r"for another UNet: .* has \(width, heads\) \(24, 2\), theirs 16, 2|theirs"
    ):
        linearize(wider, "linfusion", weights=tmp_path)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"method": "linfuson"}, ValueError, "did you mean 'linfusion'"),
        ({"method": "clear"}, ValueError, "got UNet2DConditionModel; method='linfusion' takes it"),
        ({"init": "zero"}, ValueError, r"init must be one of \('inherit', 'random'\), got 'zero'"),
        ({"projection_mid_dims": 3}, ValueError, "did you mean 'projection_mid_dim'"),
        ({"projection_mid_dim": 0}, ValueError, "positive number, got 0"),
        ({"projection_mid_dim": {}}, ValueError, "has no entry for down_blocks.0"),
        ({"projection_mid_dim": True}, ValueError, "got True"),
        ({"weights": "no/such/file.safetensors"}, ValueError, "none that exists"),
        ({"weights": 3}, TypeError, "weights must be a path"),
        ({"weights": {}}, ValueError, "missing: down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
    ],
)
def test_bad_words_are_named_and_nothing_changes(unet, words, error, message):
    wanted = predict(unet)
    with pytest.raises(error, match=message):
        linearize(unet, **{"method": "linfusion"} | words)
    assert torch.equal(predict(unet), wanted) and linearized(unet) is None


def test_weights_may_be_tensors_by_name_and_a_name_of_no_parameter_is_refused(unet):
    handle = linearize(unet, "linfusion", init="random")
    state = {name: tensor.clone() for name, tensor in handle.state_dict().items()}
    wanted, before = predict(unet), unet.conv_in.weight.clone()
    unlinearize(unet)
    with pytest.raises(ValueError, match="1 unexpected: conv_in"):
        linearize(unet, "linfusion", weights=state | {"conv_in.weigth": torch.zeros(1)})
    linearize(unet, "linfusion", weights=state)
    assert torch.equal(predict(unet), wanted)
    unlinearize(unet)
    linearize(unet, "linfusion", weights=state | {"conv_in.weight": torch.zeros_like(before)})
    assert not unet.conv_in.weight.any()
    unlinearize(unet)
    assert torch.equal(unet.conv_in.weight, before)


def test_a_thing_without_a_denoiser_a_second_swap_and_a_missing_one_are_refused(unet):
    with pytest.raises(TypeError, match="must be a diffusers pipeline"):
        linearize(object(), "linfusion")
    with pytest.raises(ValueError, match="must be linearized"):
        unlinearize(unet)
    handle = linearize(unet, "linfusion")
    with pytest.raises(ValueError, match=r"linearized already \(method='linfusion'\)"):
        linearize(unet, "linfusion")
    handle.unlinearize()
    with pytest.raises(ValueError, match="not linearized any more"):
        handle.report()
    assert "not linearized any more" in repr(handle)


def test_official_weights_need_a_family_that_has_them():
    other = diffusers.UNet2DConditionModel(**CONFIG | {"cross_attention_dim": 32})
    with pytest.raises(ValueError, match="cross_attention_dim 768, 1024 or 2048"):
        linearize(other, "linfusion", weights="official")


def test_the_report_counts_parameters_tokens_and_flops(unet):
    handle = linearize(unet, "linfusion", projection_mid_dim=8)
    report = handle.report(64, 128)
    assert report.parameters == sum(p.numel() for p in handle.parameters().values())
    row = report.rows[0]
    n, c, d, hidden = 8 * 16, 16, 8, 8
    assert row.tokens == n and row.was == "Attention" and row.now == "LinFusionAttention"
    multiply_adds = n * (4 * c * c + 2 * 2 * c * hidden + 2 * c * d + 2 * c)
    assert row.flops == 2 * multiply_adds
    assert row.softmax_flops == 2 * (n * 4 * c * c + 2 * n * n * c)
    assert "GFLOPs" in str(report) and row.name in str(report)
    with pytest.raises(ValueError, match="height must be a positive multiple of 8"):
        handle.report(60, 64)


def test_the_report_knows_the_levels_of_a_unet():
    config = CONFIG | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    config |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DConditionModel(**config)
    seen = {}
    handle = linearize(unet, "linfusion")
    for name, module in handle.modules.items():
        module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.shape[1]}))
    predict(unet, 9, 14)
    assert seen == {row.name: -(-9 // 2) * 7 for row in handle.report(72, 112).rows}


def test_half_precision_survives_a_million_tokens():
    from linzoo.kernels import lin_readout, lin_reduce

    k = v = torch.full((1, 1_000_000, 1, 1), 8.0, dtype=torch.float16)
    state = lin_reduce(k, v, feature="elu1", norm="sum")
    y = lin_readout(k[:, :2], state, feature="elu1", norm="sum", eps=1e-4, eps_on="mean")
    assert torch.allclose(y.float(), torch.full_like(y, 8.0).float(), rtol=1e-3)
