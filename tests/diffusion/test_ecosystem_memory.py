"""What saves memory in diffusers: offloading, tiled VAEs, casting, quantising. Swap first, then these."""

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from linzoo.diffusion import linearize, unlinearize

from .pipelines import build
from .slow_forms import disturb

SWAPS = {
    "sd": ("sd", "linfusion", {}),
    "sdxl": ("sdxl", "linfusion", {}),
    "flux": ("flux", "clear", {"radius": 3}),
    "flux_pooled": ("flux", "clear", {"radius": 3, "down_factor": 4}),
    "sd3": ("sd3", "clear", {"radius": 3}),
    "dit": ("dit", "lit", {"heads": 2}),
    "pixart_sigma": ("pixart_sigma", "lit", {"heads": 2}),
}
CPU = torch.device("cpu")


def swapped(name: str):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    torch.manual_seed(0)  # LiT starts its projections at random
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    return tiny, handle


def model_offload(tiny):
    tiny.pipe.enable_model_cpu_offload(device="cpu")


def sequential_offload(tiny):
    tiny.pipe.enable_sequential_cpu_offload(device="cpu")


def group_offload(tiny, **words):
    tiny.model.enable_group_offload(onload_device=CPU, offload_device=CPU, **words)


def by_leaf(tiny):
    group_offload(tiny, offload_type="leaf_level")


def by_block(tiny):
    group_offload(tiny, offload_type="block_level", num_blocks_per_group=1)


def casting(tiny):
    tiny.model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


@pytest.mark.parametrize("offload", [model_offload, by_leaf, by_block])
@pytest.mark.parametrize("name", SWAPS)
def test_offloading_after_the_swap_leaves_the_images(name, offload):
    tiny, handle = swapped(name)
    if offload is not model_offload and not tiny.model._supports_group_offloading:
        pytest.skip(f"diffusers cannot offload {type(tiny.model).__name__} by groups")
    before = tiny.run()
    offload(tiny)
    if offload is by_leaf:  # hooks sit on the swapped projections too
        assert all(hasattr(module.to_q, "_diffusers_hook") for module in handle.modules.values())
    assert torch.equal(tiny.run(), before)


@pytest.mark.parametrize("name", SWAPS)
def test_sequential_offloading_finds_every_weight_where_its_module_runs(name):
    """Needs a GPU to run; here its rule: a module's own weights are there only while its forward runs."""
    tiny, _ = swapped(name)
    before = tiny.run()
    for module in tiny.model.modules():
        lend_weights(module)
    assert torch.equal(tiny.run(), before)


def lend_weights(module: nn.Module) -> None:
    own = {parameter: parameter.detach().clone() for parameter in module.parameters(recurse=False)}

    def give(*_):
        for parameter, value in own.items():
            parameter.data.copy_(value)

    def take(*_):
        for parameter in own:
            parameter.data.fill_(torch.nan)

    take()
    module.register_forward_pre_hook(give)
    module.register_forward_hook(take)


@pytest.mark.parametrize("name", ["sd", "flux_pooled", "dit"])
def test_sequential_offloading_hooks_every_swapped_weight(name, tmp_path):
    tiny, handle = swapped(name)
    sequential_offload(tiny)
    assert {parameter.device.type for parameter in handle.parameters().values()} == {"meta"}
    with pytest.raises(ValueError, match=r"remove_all_hooks\(\)"):
        handle.unlinearize()
    with pytest.raises(ValueError, match=r"remove_all_hooks\(\)"):
        handle.save_pretrained(tmp_path / "swap")
    assert not list(tmp_path.iterdir())
    tiny.pipe.remove_all_hooks()
    handle.unlinearize()
    assert torch.equal(tiny.run(), build(SWAPS[name][0]).run())


@pytest.mark.parametrize("offload", [model_offload, sequential_offload, by_leaf, by_block, casting])
@pytest.mark.parametrize("name", ["sd", "flux", "pixart_sigma"])
def test_a_swap_after_hooks_is_refused_and_says_the_order(name, offload):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    if offload in (by_leaf, by_block) and not tiny.model._supports_group_offloading:
        pytest.skip(f"diffusers cannot offload {type(tiny.model).__name__} by groups")
    cls = type(tiny.model)
    offload(tiny)
    with pytest.raises(ValueError, match=r"linearize must come before offloading.*then linearize"):
        linearize(tiny.pipe, method, **options)
    assert type(tiny.model) is cls
    if offload in (model_offload, sequential_offload):
        tiny.pipe.remove_all_hooks()
        torch.manual_seed(0)
        disturb(linearize(tiny.pipe, method, **options))
        assert torch.equal(tiny.run(), swapped(name)[0].run())


@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "dit", "pixart_sigma"])
def test_layerwise_casting_stores_the_swapped_weights_in_eight_bits(name):
    tiny, handle = swapped(name)
    twin, _ = swapped(name)
    casting(tiny)
    small = {name for name, p in tiny.model.named_parameters() if p.dtype == torch.float8_e4m3fn}
    projections = {f"{module}.to_q.weight" for module in handle.modules}
    assert projections <= small
    with torch.no_grad():
        for parameter_name, parameter in twin.model.named_parameters():
            if parameter_name in small:
                parameter.copy_(parameter.to(torch.float8_e4m3fn))
    assert torch.equal(tiny.run(), twin.run())


@pytest.mark.parametrize("name", ["sd", "flux", "dit"])
def test_a_tiled_vae_decodes_what_it_decodes_beside_softmax(name):
    tiny, _ = swapped(name)
    latents = tiny.run(output_type="latent") if name != "dit" else None
    whole = tiny.run()
    tiny.pipe.vae.enable_tiling()
    tiny.pipe.vae.tile_sample_min_size, tiny.pipe.vae.tile_latent_min_size = 16, 8
    tiled = tiny.run()
    assert (tiled - whole).abs().max() > 1e-4  # group norms are per tile
    if latents is not None and name == "sd":
        vae = tiny.pipe.vae
        with torch.no_grad():
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
        want = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        assert torch.allclose(tiled, want, atol=1e-6)
    tiny.pipe.vae.disable_tiling()
    assert torch.equal(tiny.run(), whole)


class EightBit(nn.Linear):
    """A quantiser's layer: 8-bit rows and their scales in place of the weight."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)
        self.scale, self.bias = scale, linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantise(model: nn.Module) -> None:
    """Every projection of every attention."""
    for attention in [module for module in model.modules() if hasattr(module, "to_q")]:
        for name, child in list(attention.named_children()):
            if type(child) is nn.Linear:
                setattr(attention, name, EightBit(child))


@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "dit", "pixart_sigma"])
def test_a_quantised_base_is_refused_and_a_swapped_model_can_be_quantised(name):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    quantise(tiny.model)
    softmax = tiny.run()
    with pytest.raises(ValueError, match=r"EightBit.*Linearize the unquantised model, then quantise it"):
        linearize(tiny.pipe, method, **options)
    assert torch.equal(tiny.run(), softmax)
    tiny, handle = swapped(name)
    before = tiny.run()
    quantise(tiny.model)
    assert all(type(module.to_q) is EightBit for module in handle.modules.values())
    after = tiny.run()
    assert 0 < (after - before).abs().max() < 0.05


def test_torchs_own_quantiser_is_known_before_the_swap_and_works_after_it():
    quantised = torch.ao.quantization.quantize_dynamic
    tiny = build("sd")
    tiny.pipe.unet = quantised(tiny.pipe.unet, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"quantized.*then quantise it"):
        linearize(tiny.pipe, "linfusion")
    tiny, _ = swapped("sd")
    before = tiny.run()
    tiny.pipe.unet = quantised(tiny.pipe.unet, {nn.Linear}, dtype=torch.qint8)  # a copy
    assert 0 < (tiny.run() - before).abs().max() < 0.1


def test_a_model_on_the_meta_device_is_swapped_without_memory():
    with torch.device("meta"):
        model = build("flux").model
    linearize(model, "clear", radius=3)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    unlinearize(model)
    assert type(model) is type(build("flux").model)
