"""What diffusers does to attention: guidance, fusing, slicing, backends, ControlNets made of a UNet."""

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
from diffusers import ControlNetModel

from linzoo.diffusion import linearize, unlinearize

from .pipelines import CONDITIONING, build
from .slow_forms import disturb

SWAPS = {
    "sd": ("linfusion", {}),
    "sdxl": ("linfusion", {}),
    "flux": ("clear", {"radius": 3}),
    "sd3": ("clear", {"radius": 3}),
    "dit": ("lit", {"heads": 2}),
    "pixart_sigma": ("lit", {"heads": 2}),
}
PAG = {
    "sd": ("StableDiffusionPAGPipeline", "mid"),
    "sdxl": ("StableDiffusionXLPAGPipeline", "mid"),
    "sd3": ("StableDiffusion3PAGPipeline", "transformer_blocks.1"),
    "pixart_sigma": ("PixArtSigmaPAGPipeline", "transformer_blocks.1"),
}


FUSED = {"sd3": {"dual_attention_layers": ()}}  # diffusers 0.42 cannot fuse the second attention of SD3.5


def swapped(kind: str, **changes):
    method, options = SWAPS[kind]
    tiny = build(kind, **changes)
    torch.manual_seed(0)  # LiT starts its projections at random
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    return tiny, handle


@pytest.mark.parametrize("kind", PAG)
def test_perturbed_attention_guidance_on_swapped_layers_is_refused(kind):
    tiny, _ = swapped(kind)
    before = tiny.run()
    pipeline, layers = PAG[kind]
    guided = tiny.variant(getattr(diffusers, pipeline), dict(pag_applied_layers=layers))
    with pytest.raises(ValueError, match=r"perturbed-attention .*not swapped, or .*unlinearize\(pipe\)"):
        guided.run(pag_scale=3.0)
    assert torch.equal(tiny.run(), before)
    guided.run(pag_scale=0.0)  # the same pipeline without the guidance
    unlinearize(guided.pipe)
    assert (guided.run(pag_scale=3.0) - guided.run(pag_scale=0.0)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", SWAPS)
def test_fusing_projections_after_the_swap_changes_nothing(kind):
    tiny, handle = swapped(kind, **FUSED.get(kind, {}))
    if not hasattr(tiny.model, "fuse_qkv_projections"):
        pytest.skip(f"{type(tiny.model).__name__} cannot fuse")
    before = tiny.run()
    tiny.model.fuse_qkv_projections()
    assert not any("to_qkv" in dict(m.named_modules()) for m in handle.modules.values())
    assert torch.allclose(tiny.run(), before, atol=1e-5)  # attn2 is fused, and may round otherwise
    tiny.model.unfuse_qkv_projections()
    assert torch.equal(tiny.run(), before)
    unlinearize(tiny.pipe)
    assert torch.equal(tiny.run(), build(kind, **FUSED.get(kind, {})).run())


@pytest.mark.parametrize("kind", SWAPS)
def test_projections_fused_before_the_swap_do_not_hide_the_swapped_ones(kind):
    method, options = SWAPS[kind]
    tiny = build(kind, **FUSED.get(kind, {}))
    if not hasattr(tiny.model, "fuse_qkv_projections"):
        pytest.skip(f"{type(tiny.model).__name__} cannot fuse")
    tiny.model.fuse_qkv_projections()
    softmax = tiny.run()
    torch.manual_seed(0)
    disturb(linearize(tiny.pipe, method, **options))
    twin, _ = swapped(kind, **FUSED.get(kind, {}))
    assert torch.allclose(tiny.run(), twin.run(), atol=1e-5)
    unlinearize(tiny.pipe)
    assert torch.equal(tiny.run(), softmax)


@pytest.mark.parametrize("kind", ["sd", "pixart_sigma"])
def test_attention_slicing_leaves_the_swapped_layers_alone(kind):
    tiny, handle = swapped(kind)
    before = tiny.run()
    own = {type(module.processor) for module in handle.modules.values()}
    for size in ("auto", "max", 1):
        tiny.pipe.enable_attention_slicing(size)
        assert {type(module.processor) for module in handle.modules.values()} == own
        assert torch.allclose(tiny.run(), before, atol=1e-5)
    tiny.pipe.disable_attention_slicing()
    assert torch.allclose(tiny.run(), before, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd", "flux", "sd3", "pixart_sigma"])
def test_switching_xformers_off_leaves_the_swapped_layers_alone(kind):
    tiny, _ = swapped(kind)
    before = tiny.run()
    tiny.pipe.disable_xformers_memory_efficient_attention()
    assert torch.equal(tiny.run(), before)


@pytest.mark.parametrize("kind", ["sd", "flux", "sd3", "pixart_sigma"])
def test_one_processor_for_all_layers_goes_to_the_others_only(kind):
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    tiny, handle = swapped(kind)
    before, processors = tiny.run(), tiny.model.attn_processors
    if kind in ("sd", "pixart_sigma"):
        tiny.model.set_attn_processor(AttnProcessor())
        kept = {name for name, p in tiny.model.attn_processors.items() if type(p) is not AttnProcessor}
        assert kept == {f"{name}.processor" for name in handle.modules}
        assert torch.allclose(tiny.run(), before, atol=1e-5)
        # and the same in the form of a dict, which diffusers empties
        tiny.model.set_attn_processor(processors)
        assert len(processors) > 0
    mixed = {name: AttnProcessor2_0() for name in tiny.model.attn_processors}
    with pytest.raises(ValueError, match=r"got AttnProcessor2_0.*unlinearize\(pipe\)"):
        tiny.model.set_attn_processor(mixed)
    assert torch.equal(tiny.run(), before)


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_a_softmax_backend_does_not_reach_the_swapped_layers(kind):
    tiny, _ = swapped(kind)
    before = tiny.run()
    tiny.model.set_attention_backend("_native_math")
    try:
        assert torch.allclose(tiny.run(), before, atol=1e-5)
    finally:
        tiny.model.set_attention_backend("native")  # the choice is global in diffusers
        tiny.model.reset_attention_backend()


@pytest.mark.parametrize("kind", ["sd", "flux", "sd3", "dit", "pixart_sigma"])
def test_context_parallelism_is_refused_and_names_ours(kind):
    tiny, _ = swapped(kind)
    with pytest.raises(ValueError, match=r"linzoo\.diffusion\.parallel"):
        tiny.model.enable_parallelism(config=diffusers.ContextParallelConfig(ring_degree=2))


def from_unet(model):
    return ControlNetModel.from_unet(model, conditioning_embedding_out_channels=CONDITIONING)


def from_flux(model):
    return diffusers.FluxControlNetModel.from_transformer(
        model, num_layers=1, num_single_layers=2, num_attention_heads=2, attention_head_dim=16
    )


def from_sd3(model):
    return diffusers.SD3ControlNetModel.from_transformer(model, num_layers=1)


def from_motion(model):
    adapter = diffusers.MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1)
    return diffusers.UNetMotionModel.from_unet2d(model, adapter)


@pytest.mark.parametrize(
    "kind, make", [("sd", from_unet), ("sd", from_motion), ("flux", from_flux), ("sd3", from_sd3)]
)
def test_a_model_made_of_swapped_blocks_is_refused_unless_the_softmax_ones_are_shown(kind, make):
    tiny, handle = swapped(kind)
    before = tiny.run()
    with pytest.raises(ValueError, match=r"inside `with handle\.softmax\(\):`"):
        make(tiny.model)
    with handle.softmax():
        got = make(tiny.model).state_dict()
    want = make(build(kind).model).state_dict()
    assert list(got) == list(want)
    same = [name for name in got if torch.equal(got[name], want[name])]
    assert any(".to_q.weight" in name for name in same)
    assert all(name in same for name in got if name in tiny.model.state_dict())  # all that is copied
    assert torch.equal(tiny.run(), before)


def test_a_controlnet_of_the_shape_of_a_swapped_unet_may_be_made():
    tiny, _ = swapped("sd")
    words = dict(conditioning_embedding_out_channels=CONDITIONING, load_weights_from_unet=False)
    ControlNetModel.from_unet(tiny.model, **words)  # reads the config alone


@pytest.mark.parametrize("kind", ["sd", "sd3", "pixart_sigma"])
def test_feed_forward_in_chunks_and_channels_last_leave_the_images(kind):
    tiny, _ = swapped(kind)
    before = tiny.run()
    for block in tiny.model.modules():
        if hasattr(block, "set_chunk_feed_forward"):
            block.set_chunk_feed_forward(2, 1)
    tiny.model.to(memory_format=torch.channels_last)
    assert torch.allclose(tiny.run(), before, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd", "flux", "sd3", "pixart_sigma"])
def test_processors_keep_their_names(kind):
    tiny, _ = swapped(kind)
    assert list(tiny.model.attn_processors) == list(build(kind).model.attn_processors)
