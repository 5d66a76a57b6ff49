"""Every tiny pipeline runs after its swap, draws what the slow form of its method draws, and goes back."""

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
from diffusers import (
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)

from linzoo.diffusion import linearize, unlinearize

from .pipelines import HEIGHT, WIDTH, build, controlnet, embeds, picture, quiet
from .slow_forms import DitClearForm, FluxClearForm, LinFusionForm, LitForm, Sd3ClearForm, disturb, install

RADIUS = 3
GRID = HEIGHT // 4, WIDTH // 4  # image tokens: the VAE halves once, patches once more
SQUARE = 8, 8  # of DiT, which draws at its sample size


def linfusion(module):
    return LinFusionForm(module, module.heads, GRID)


def flux_clear(module):
    return FluxClearForm(module, module.heads, GRID, RADIUS, text_first=True)


def sd3_clear(module):
    return Sd3ClearForm(module, module.heads, GRID, RADIUS, text_first=False)


def dit_clear(module):
    return DitClearForm(module, module.heads, SQUARE, RADIUS, text_first=False)


SWAPS = {  # pipeline, method, options, slow form
    "sd": ("sd", "linfusion", {}, linfusion),
    "sdxl": ("sdxl", "linfusion", {}, linfusion),
    "flux": ("flux", "clear", {"radius": RADIUS}, flux_clear),
    "sd3": ("sd3", "clear", {"radius": RADIUS}, sd3_clear),
    "dit": ("dit", "lit", {"heads": 2}, lambda module: LitForm(module, 2, SQUARE)),
    "dit_clear": ("dit", "clear", {"radius": RADIUS}, dit_clear),
    "pixart_sigma": ("pixart_sigma", "lit", {"heads": 2}, lambda module: LitForm(module, 2, GRID)),
    "pixart_alpha": ("pixart_alpha", "lit", {"heads": 2}, lambda module: LitForm(module, 2, GRID)),
}


def mask():
    return (picture(channels=1) > 0.5).float()


VARIANTS = {  # pipeline class, the words that it has more of
    "sd_img2img": ("sd", StableDiffusionImg2ImgPipeline, lambda: dict(image=picture(), strength=1.0)),
    "sd_inpaint": ("sd", StableDiffusionInpaintPipeline, lambda: dict(image=picture(), mask_image=mask())),
    "sdxl_img2img": ("sdxl", StableDiffusionXLImg2ImgPipeline, lambda: dict(image=picture(), strength=0.9)),
    "sdxl_inpaint": (
        "sdxl",
        StableDiffusionXLInpaintPipeline,
        lambda: dict(image=picture(), mask_image=mask(), strength=0.9),
    ),
    "flux_img2img": ("flux", FluxImg2ImgPipeline, lambda: dict(image=picture(), strength=0.9)),
    "flux_inpaint": (
        "flux",
        FluxInpaintPipeline,
        lambda: dict(image=picture(), mask_image=mask(), strength=0.9),
    ),
    "sd3_img2img": ("sd3", StableDiffusion3Img2ImgPipeline, lambda: dict(image=picture(), strength=0.9)),
}


def swapped(name: str):
    kind, method, options, _ = SWAPS[name]
    tiny = build(kind)
    torch.manual_seed(0)  # LiT starts its projections at random
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    return tiny, handle


def slow(name: str, handle):
    """The same pipeline, never swapped, with the slow form at the places that the handle swapped."""
    kind, _, _, form = SWAPS[name]
    tiny = build(kind)
    install(tiny.model, handle, form)
    return tiny


def assert_close(got, want, tolerance: float = 2e-5):
    assert torch.isfinite(got).all()
    assert got.shape == want.shape
    assert (got - want).abs().max() < tolerance


@pytest.mark.parametrize("name", SWAPS)
def test_a_swapped_pipeline_draws_what_the_slow_form_draws(name):
    tiny, handle = swapped(name)
    got = tiny.run()
    assert_close(got, slow(name, handle).run())
    assert (got - build(SWAPS[name][0]).run()).abs().max() > 1e-3  # softmax is something else


@pytest.mark.parametrize("name", VARIANTS)
def test_other_pipelines_of_swapped_modules_draw_what_the_slow_form_draws(name):
    kind, pipeline, words = VARIANTS[name]
    tiny, handle = swapped(kind)
    got = tiny.variant(pipeline, **words()).run()
    assert_close(got, slow(kind, handle).variant(pipeline, **words()).run())


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "pixart_sigma"])  # SD3 does not repeat embeddings
def test_images_of_one_prompt_are_the_images_drawn_one_by_one(name):
    tiny, _ = swapped(name)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = tiny.run(num_images_per_prompt=2, generator=seeds)
    assert_close(both, torch.cat([tiny.run(seed=5), tiny.run(seed=6)]), 1e-4)


@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "dit", "pixart_alpha"])
def test_a_batch_of_prompts_is_its_prompts_drawn_one_by_one(name):
    tiny, _ = swapped(name)
    if name == "dit":
        one, two = {"class_labels": [3]}, {"class_labels": [7]}
        both = {"class_labels": [3, 7]}
    else:
        one = {k: v for k, v in tiny.inputs.items() if isinstance(v, torch.Tensor)}
        two = {k: v if "mask" in k else embeds(*v.shape, seed=20) for k, v in one.items()}
        both = {k: torch.cat([v, two[k]]) for k, v in one.items()}
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    got = tiny.run(**both, generator=seeds)
    assert_close(got, torch.cat([tiny.run(seed=5, **one), tiny.run(seed=6, **two)]), 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "dit", "pixart_sigma"])
def test_a_pipeline_moves_to_another_dtype_after_its_swap(name, dtype):
    tiny, handle = swapped(name)
    tiny.pipe.to(dtype)
    assert {parameter.dtype for parameter in handle.parameters().values()} == {dtype}
    twin = slow(name, handle)
    twin.pipe.to(dtype)
    words = {name: cast(value, dtype) for name, value in tiny.inputs.items()}
    got, want = tiny.run(**words), twin.run(**words)
    exact = 1e-6 if name == "flux" else 1e-7  # pictures are float32; so is FLUX's rotation
    assert_close(got.double(), want.double(), exact if dtype == torch.float64 else 0.1)


def cast(value, dtype):
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def flux_controlnet(transformer):
    """A ControlNet of FLUX; its output layers are filled, so that it has a say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = diffusers.FluxControlNetModel.from_transformer(
            transformer, num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16
        )
        for linear in (*net.controlnet_blocks, *net.controlnet_single_blocks, net.controlnet_x_embedder):
            torch.nn.init.normal_(linear.weight, std=0.2)
    return net.eval()


@pytest.mark.parametrize(
    "name, pipeline, make, words",
    [
        ("sd", StableDiffusionControlNetPipeline, controlnet, lambda: dict(image=picture())),
        ("flux", FluxControlNetPipeline, flux_controlnet, lambda: dict(control_image=picture())),
    ],
)
def test_a_controlnet_guides_a_swapped_model(name, pipeline, make, words):
    tiny, handle = swapped(name)
    guide = dict(parts={"controlnet": make(build(name).model)}, **words())
    got = tiny.variant(pipeline, **guide).run()
    assert_close(got, slow(name, handle).variant(pipeline, **guide).run())
    assert (got - tiny.run()).abs().max() > 1e-3  # it has a say


@pytest.mark.parametrize(
    "name, blocks", [("flux", "FluxAutoBlocks"), ("sdxl", "StableDiffusionXLAutoBlocks")]
)
def test_a_modular_pipeline_is_swapped_like_any_other(name, blocks):
    kind, method, options, _ = SWAPS[name]
    tiny = build(kind)
    pipe = modular(tiny.pipe, blocks)
    handle = linearize(pipe, method, **options)
    disturb(handle)
    assert handle.model is tiny.model
    got, want = (
        torch.as_tensor(p(**tiny.inputs, generator=torch.Generator().manual_seed(5), output="images"))
        for p in (pipe, modular(slow(name, handle).pipe, blocks))
    )
    assert_close(got, want)
    unlinearize(pipe)
    assert torch.equal(tiny.run(), build(kind).run())


def modular(pipe, blocks: str):
    """The denoising and decoding blocks around the parts of ``pipe``."""
    blocks = getattr(diffusers.modular_pipelines, blocks)()
    for name in set(blocks.sub_blocks) - {"denoise", "decode"}:
        blocks.sub_blocks.pop(name)
    new = blocks.init_pipeline()
    parts = {name: part for name, part in pipe.components.items() if name in new.components}
    new.update_components(**{name: part for name, part in parts.items() if part is not None})
    return quiet(new)


def test_flux_without_guidance_embedding_is_swapped_too():
    tiny = build("flux", guidance_embeds=False)  # schnell
    disturb(handle := linearize(tiny.pipe, "clear", radius=RADIUS))
    twin = build("flux", guidance_embeds=False)
    install(twin.model, handle, flux_clear)
    assert_close(tiny.run(), twin.run())


@pytest.mark.parametrize("name", SWAPS)
def test_unlinearize_gives_the_softmax_images_bit_for_bit(name):
    kind, method, options, _ = SWAPS[name]
    tiny = build(kind)
    before, names = tiny.run(), list(tiny.model.state_dict())
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    assert not torch.equal(tiny.run(), before)
    unlinearize(tiny.pipe)
    assert torch.equal(tiny.run(), before)
    assert list(tiny.model.state_dict()) == names
    assert type(tiny.model) is type(build(kind).model)
