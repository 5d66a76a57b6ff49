"""Copies, compiled models, caches and reference tokens."""

import copy
import gc

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FirstBlockCacheConfig, FluxKontextPipeline, FluxPipeline

from linzoo.diffusion import linearize, linearized, unlinearize

from .pipelines import build, embeds, picture
from .slow_forms import disturb

SWAPS = {
    "sd": ("sd", "linfusion", {}),
    "flux": ("flux", "clear", {"radius": 3}),
    "flux_pooled": ("flux", "clear", {"radius": 3, "down_factor": 4, "ntk_factor": 10.0}),
    "sd3": ("sd3", "clear", {"radius": 3}),
    "dit": ("dit", "lit", {"heads": 2}),
    "dit_clear": ("dit", "clear", {"radius": 3}),
    "pixart_sigma": ("pixart_sigma", "lit", {"heads": 2}),
}


def swapped(name: str):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    torch.manual_seed(0)  # LiT starts its projections at random
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    return tiny, handle


@pytest.mark.parametrize("name", SWAPS)
def test_a_deep_copy_is_a_swapped_model_of_its_own(name):
    tiny, handle = swapped(name)
    before = tiny.run()
    original, twin = tiny.model, copy.deepcopy(tiny.model)
    part = "unet" if hasattr(tiny.pipe, "unet") else "transformer"
    setattr(tiny.pipe, part, twin)
    assert torch.equal(tiny.run(), before)
    copied = linearized(twin)
    assert not set(map(id, copied.modules.values())) & set(map(id, handle.modules.values()))
    disturb(copied)  # in place, on the copy alone
    assert not torch.equal(tiny.run(), before)
    unlinearize(twin)
    assert torch.equal(tiny.run(), build(SWAPS[name][0]).run())
    assert linearized(twin) is None
    setattr(tiny.pipe, part, original)
    assert torch.equal(tiny.run(), before)
    unlinearize(original)
    assert torch.equal(tiny.run(), build(SWAPS[name][0]).run())


def test_a_swapped_model_is_freed_with_its_last_reference():
    import weakref

    tiny, handle = swapped("flux")
    gone = [weakref.ref(tiny.model), weakref.ref(next(iter(handle.modules.values())))]
    del tiny, handle
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def call(tiny, **words):
    """The denoiser's output on seeded tensors."""
    model = tiny.model
    if hasattr(tiny.pipe, "unet"):
        return model(embeds(1, 4, 8, 12), torch.tensor(10), embeds(1, 7, 32), **words).sample
    if "Flux" in type(model).__name__:
        ids = FluxPipeline._prepare_latent_image_ids(1, 8, 12, "cpu", torch.float32)
        text, pooled, guidance = embeds(1, 5, 32), embeds(1, 32), torch.tensor([3.5])
        words |= dict(img_ids=ids, txt_ids=torch.zeros(5, 3), guidance=guidance)
        return model(embeds(1, 96, 16), text, pooled, torch.tensor([0.5]), **words).sample
    if "SD3" in type(model).__name__:
        return model(embeds(1, 4, 16, 24), embeds(1, 5, 32), embeds(1, 64), torch.tensor([10.0])).sample
    if "DiT" in type(model).__name__:
        return model(embeds(1, 4, 16, 16), torch.tensor([10]), torch.tensor([3])).sample
    return model(embeds(1, 4, 8, 12), embeds(1, 5, 32), torch.tensor([10])).sample


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_swapped_model_compiles_to_one_graph(name):
    tiny, _ = swapped(name)
    want = call(tiny)
    torch.compiler.reset()
    tiny.model.compile(fullgraph=True, backend="eager")
    assert torch.allclose(call(tiny), want, atol=1e-5)


def test_flux_compiles_to_one_graph_when_it_is_told_the_grid():
    tiny, _ = swapped("flux")
    want = call(tiny)
    torch.compiler.reset()
    tiny.model.compile(fullgraph=True, backend="eager")
    assert torch.allclose(call(tiny, joint_attention_kwargs={"grid": (8, 12)}), want, atol=1e-5)
    with pytest.raises(Exception, match=r"grid.*compile_repeated_blocks"):
        call(tiny)


def test_repeated_blocks_of_flux_compile_without_the_grid():
    tiny, _ = swapped("flux_pooled")
    want = tiny.run()
    torch.compiler.reset()
    tiny.model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.allclose(tiny.run(), want, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_swap_after_compiling_is_refused(name):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    with pytest.raises(ValueError, match=r"torch\.compile"):
        linearize(torch.compile(tiny.model, backend="eager"), method, **options)
    tiny.model.compile(backend="eager")
    with pytest.raises(ValueError, match=r"torch\.compile"):
        linearize(tiny.pipe, method, **options)
    tiny = build("flux")
    tiny.model.compile_repeated_blocks(backend="eager")
    with pytest.raises(ValueError, match=r"torch\.compile"):
        linearize(tiny.pipe, "clear", radius=3)


def test_the_cache_of_flux_skips_blocks_of_a_swapped_model():
    tiny, _ = swapped("flux")
    before = tiny.run(num_inference_steps=4)
    tiny.model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(tiny.run(num_inference_steps=4), before)
    tiny.model.disable_cache()
    tiny.model.enable_cache(FirstBlockCacheConfig(threshold=1e6))
    cached = tiny.run(num_inference_steps=4)
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, before)
    tiny.model.disable_cache()
    assert torch.equal(tiny.run(num_inference_steps=4), before)


def test_a_swap_after_the_cache_is_refused():
    tiny = build("flux")
    tiny.model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with pytest.raises(ValueError, match="caching"):
        linearize(tiny.pipe, "clear", radius=3)
    tiny.model.disable_cache()
    linearize(tiny.pipe, "clear", radius=3)
    tiny.run()


def test_reference_tokens_in_the_sequence_are_refused():
    tiny, _ = swapped("flux")
    kontext = tiny.variant(FluxKontextPipeline, image=picture(64, 64), max_area=32 * 32, _auto_resize=False)
    with pytest.raises(ValueError, match=r"reference"):
        kontext.run()
    unlinearize(tiny.pipe)
    kontext.run()


@pytest.mark.parametrize("name", ["sd", "flux", "sd3"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    tiny, handle = swapped(name)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            tiny.model.enable_gradient_checkpointing()
        tiny.model.train()
        tiny.model.zero_grad()
        call(tiny).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in handle.parameters().values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
