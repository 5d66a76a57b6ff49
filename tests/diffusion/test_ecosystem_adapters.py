"""LoRA and IP-Adapter beside swapped attention: they work, or the message says what to do."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

import peft

from linzoo.diffusion import linearize, unlinearize

from .pipelines import build, embeds
from .slow_forms import disturb

CLIP = 24  # width of the image embedding that the adapters read
SWAPS = {"sd": ("linfusion", {}), "flux": ("clear", {"radius": 3}), "pixart_sigma": ("lit", {"heads": 2})}
LORA = ("to_q", "to_v", "to_out.0")


def swapped(kind: str, **weights):
    method, options = SWAPS[kind]
    tiny = build(kind)
    torch.manual_seed(0)  # LiT starts its projections at random
    handle = linearize(tiny.pipe, method, **options, **weights)
    if not weights:
        disturb(handle)
    return tiny, handle


def lora(kind: str, targets=LORA) -> dict[str, torch.Tensor]:
    """LoRA tensors of rank 2 as files hold them, made on an unswapped model."""
    model = build(kind).model
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=list(targets)))
    part = "unet" if kind.startswith("sd") else "transformer"
    state = peft.get_peft_model_state_dict(model)
    return {f"{part}.{name}": embeds(*t.shape, seed=i) * 0.2 for i, (name, t) in enumerate(state.items())}


def merged(weights: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """W + (alpha / r) B A for every swapped weight; files without an alpha mean alpha = r."""
    out = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        pair = [t for n, t in tensors.items() if f"{module}.lora_" in n]  # A, then B
        out[name] = weight + pair[1] @ pair[0] if pair else weight.clone()
    return out


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_lora_after_the_swap_acts_on_the_swapped_layers_with_a_warning(kind):
    tiny, handle = swapped(kind)
    before, weights, tensors = tiny.run(), handle.state_dict(), lora(kind)
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    with pytest.warns(UserWarning, match="learnt with softmax attention"):
        tiny.pipe.load_lora_weights(tensors, adapter_name="style")
    got = tiny.run()
    others = [name for name in tensors if not any(f".{module}." in name for module in handle.modules)]
    twin, _ = swapped(kind, weights=merged(weights, tensors))
    if others:  # FLUX's text projections, the UNet's attn2: the same tensors through diffusers
        twin.pipe.load_lora_weights({name: tensors[name] for name in others}, adapter_name="style")
    assert (got - before).abs().max() > 1e-3
    assert (got - twin.run()).abs().max() < 1e-4
    tiny.pipe.unload_lora_weights()
    assert torch.equal(tiny.run(), before)


@pytest.mark.parametrize("kind", ["sd", "flux", "pixart_sigma"])
def test_lora_before_the_swap_is_refused_and_nothing_changes(kind):
    method, options = SWAPS[kind]
    tiny = build(kind)
    config = peft.LoraConfig(r=2, target_modules=list(LORA), init_lora_weights=False)
    peft.inject_adapter_in_model(config, tiny.model)
    before, cls = tiny.run(), type(tiny.model)
    with pytest.raises(ValueError, match=r"LoRA weights lie on .*fuse_lora\(\).*unload_lora_weights\(\)"):
        linearize(tiny.pipe, method, **options)
    assert type(tiny.model) is cls
    assert torch.equal(tiny.run(), before)


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_a_lora_fused_before_the_swap_is_inherited(kind):
    method, options = SWAPS[kind]
    tiny, tensors = build(kind), lora(kind)
    plain = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    tiny.pipe.load_lora_weights(tensors)
    tiny.pipe.fuse_lora()
    tiny.pipe.unload_lora_weights()
    handle = linearize(tiny.pipe, method, **options)
    names = [f"{module}.to_q.weight" for module in handle.modules]
    want = merged({name: plain[name] for name in names}, tensors)
    for name in names:
        torch.testing.assert_close(handle.state_dict()[name], want[name], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(want[name], plain[name], atol=1e-2)


def test_a_lora_on_other_layers_survives_the_swap():
    tiny, tensors = build("sd"), lora("sd", ("attn2.to_q", "attn2.to_v"))
    tiny.pipe.load_lora_weights(tensors, adapter_name="words")
    handle = linearize(tiny.pipe, "linfusion")
    with_lora = tiny.run()
    assert sum(hasattr(m, "lora_A") for m in tiny.model.modules()) == 2 * len(handle.modules)
    tiny.pipe.unload_lora_weights()
    assert (tiny.run() - with_lora).abs().max() > 1e-3


def test_going_back_waits_until_the_lora_is_unloaded():
    tiny = build("sd")
    before = tiny.run()
    handle = linearize(tiny.pipe, "linfusion")
    tiny.model.add_adapter(peft.LoraConfig(r=2, target_modules=list(LORA), init_lora_weights=False))
    with pytest.raises(ValueError, match=r"unload_lora_weights\(\) first"):
        handle.unlinearize()
    tiny.pipe.unload_lora_weights()
    handle.unlinearize()
    assert torch.equal(tiny.run(), before)


def ip_adapter(model) -> dict:
    """An IP-Adapter of four tokens for a UNet or FLUX, as its files hold it."""
    config = model.config
    flux = not hasattr(config, "cross_attention_dim")
    context = config.joint_attention_dim if flux else config.cross_attention_dim
    places = [n for n in model.attn_processors if ("single" not in n if flux else "attn2" in n)]
    state = {}
    for i, place in enumerate(places):
        key = i if flux else 2 * i + 1
        width = model.get_submodule(place.removesuffix(".processor")).inner_dim
        for part in ("to_k_ip", "to_v_ip"):
            state[f"{key}.{part}.weight"] = embeds(width, context, seed=key)
            if flux:
                state[f"{key}.{part}.bias"] = torch.zeros(width)
    image = {"proj.weight": embeds(4 * context, CLIP), "proj.bias": torch.zeros(4 * context)}
    image |= {"norm.weight": torch.ones(context), "norm.bias": torch.zeros(context)}
    return {"image_proj": image, "ip_adapter": state}


def load_ip_adapter(tiny) -> None:
    words = {"image_encoder_pretrained_model_name_or_path": None} if hasattr(tiny.pipe, "transformer") else {}
    words = words or {"subfolder": "", "image_encoder_folder": None}
    tiny.pipe.load_ip_adapter(ip_adapter(tiny.model), weight_name="", **words)


IMAGE = {"ip_adapter_image_embeds": [embeds(2, 1, CLIP, seed=8)]}


def test_an_ip_adapter_comes_and_goes_and_the_swap_stays():
    tiny, handle = swapped("sd")
    before, weights = tiny.run(), {name: t.clone() for name, t in handle.state_dict().items()}
    processors = {type(module.processor) for module in handle.modules.values()}
    load_ip_adapter(tiny)
    assert {type(module.processor) for module in handle.modules.values()} == processors
    first = tiny.run(**IMAGE)
    assert (first - before).abs().max() > 1e-3
    tiny.pipe.set_ip_adapter_scale(0.0)
    assert torch.allclose(tiny.run(**IMAGE), before, atol=1e-5)
    tiny.pipe.unload_ip_adapter()
    assert torch.equal(tiny.run(), before)
    assert all(torch.equal(t, weights[name]) for name, t in handle.state_dict().items())


def test_an_ip_adapter_may_come_before_the_swap():
    tiny = build("sd")
    load_ip_adapter(tiny)
    disturb(linearize(tiny.pipe, "linfusion"))
    twin, _ = swapped("sd")
    load_ip_adapter(twin)
    assert torch.equal(tiny.run(**IMAGE), twin.run(**IMAGE))
    tiny.pipe.unload_ip_adapter()
    twin.pipe.unload_ip_adapter()
    assert torch.equal(tiny.run(), twin.run())
    unlinearize(tiny.pipe)
    assert torch.equal(tiny.run(), build("sd").run())


def test_an_ip_adapter_on_flux_is_refused_after_the_swap_and_before_it():
    tiny, _ = swapped("flux")
    before = tiny.run()
    with pytest.raises(ValueError, match=r"FluxIPAdapterAttnProcessor.*unlinearize"):
        load_ip_adapter(tiny)
    assert torch.equal(tiny.run(), before)
    tiny = build("flux")
    load_ip_adapter(tiny)
    with pytest.raises(ValueError, match=r"FluxIPAdapterAttnProcessor.*unload_ip_adapter\(\)"):
        linearize(tiny.pipe, "clear", radius=3)
    tiny.pipe.unload_ip_adapter()
    linearize(tiny.pipe, "clear", radius=3)


def test_a_processor_with_weights_cannot_slip_onto_a_swapped_layer():
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    tiny, handle = swapped("sd")
    before = tiny.run()
    foreign = IPAdapterAttnProcessor2_0(hidden_size=64, cross_attention_dim=32)
    module = next(iter(handle.modules.values()))
    for assign in (module.set_processor, lambda value: setattr(module, "processor", value)):
        with pytest.raises(ValueError, match="IPAdapterAttnProcessor2_0"):
            assign(foreign)
    assert not any("processor" in name for name in tiny.model.state_dict())
    assert torch.equal(tiny.run(), before)
