"""Each measure of a memory plan changes what is held, never what comes out; afterwards none is left."""

from contextlib import ExitStack

import pytest
import torch

pytest.importorskip("diffusers")

from linzoo.diffusion import linearize
from linzoo.diffusion.memory import MEASURES, plan
from linzoo.diffusion.memory.feed_forward import Pending, chunk_feed_forwards
from linzoo.diffusion.memory.forwards import wrap
from linzoo.diffusion.memory.rows import rows_in_turn
from linzoo.diffusion.memory.skips import Skip, park_skips

from .pipelines import build, controlnet, picture

TOKENS = 7  # divides none of the token counts


def planned(tiny, measures, **words):
    size = [tiny.inputs.get(name, 32) for name in ("height", "width")]  # DiT draws squares
    text = tiny.inputs["prompt_embeds"].shape[1] if "prompt_embeds" in tiny.inputs else 0
    return plan(tiny.pipe, *size, memory=None, measures=measures, tokens=TOKENS, text_tokens=text, **words)


def close(a, b, bound=1e-5):
    return (a - b).abs().max() <= bound * b.abs().max()


KINDS = ("sd", "sdxl", "flux", "sd3", "dit", "pixart_sigma")


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunked_feed_forward_draws_the_same_picture(kind):
    tiny = build(kind)
    want = tiny.run(output_type="latent")
    wide = [m for n, m in tiny.model.named_modules() if n.endswith((".ff.net.0", ".proj_mlp"))]
    seen = []

    def note(inner, x):
        seen.append(x.shape[1])
        return inner(x)

    with ExitStack() as stack:
        for module in wide:
            wrap(stack, module, note)
        stack.enter_context(planned(tiny, ("feed_forward",)).applied(tiny.pipe))
        got = tiny.run(output_type="latent")
    assert close(got, want)
    assert wide and max(seen) == TOKENS  # not one call saw more


def test_flux_single_blocks_concatenate_pending_parts_only_along_channels():
    pending = Pending(torch.randn(1, 5, 4))
    with pytest.raises(TypeError, match="can only concatenate its MLP"):
        torch.cat([torch.randn(1, 5, 4), pending], dim=1)
    with pytest.raises(TypeError, match="can only concatenate its MLP"):
        torch.relu(pending)


@pytest.mark.parametrize("kind", ("sd", "sdxl", "sd3", "dit", "pixart_sigma"))
def test_rows_in_turn_draw_the_same_pictures(kind):
    tiny = build(kind)
    want = tiny.run(output_type="latent")
    rows = []
    with ExitStack() as stack:
        first = next(tiny.model.children())
        hook = first.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
        stack.callback(hook.remove)
        stack.enter_context(planned(tiny, ("rows",)).applied(tiny.pipe))
        got = tiny.run(output_type="latent")
    assert close(got, want)
    assert set(rows) == {1}


def test_rows_in_turn_split_what_belongs_to_rows_and_keep_the_rest():
    model = torch.nn.Module()
    seen = []

    def forward(sample, timestep, added=None, residuals=(), return_dict=True):
        seen.append(
            (sample.shape[0], timestep.ndim, added["text"].shape[0], residuals[0].shape[0], added["word"])
        )
        return (sample * 2,)

    model.forward = forward
    x = torch.randn(3, 2)
    with ExitStack() as stack:
        rows_in_turn(stack, model)
        words = {"added": {"text": torch.zeros(3, 5), "word": "kept"}, "residuals": (torch.zeros(3, 1),)}
        (y,) = model.forward(x, torch.tensor(4), **words, return_dict=False)
    assert torch.equal(y, x * 2)
    assert seen == [(1, 0, 1, 1, "kept")] * 3
    assert model.forward is forward


@pytest.mark.parametrize("kind", ("sd", "sdxl"))
def test_streamed_attention_draws_the_same_picture(kind, monkeypatch):
    from linzoo.diffusion.memory import attention

    tiny = build(kind)
    handle = linearize(tiny.pipe, "linfusion")
    torch.manual_seed(3)
    for module in handle.modules.values():  # inherited MLPs add nothing: give them a say
        torch.nn.init.normal_(module.to_q_[-1].weight, std=0.3)
        torch.nn.init.normal_(module.to_k_[-1].weight, std=0.3)
    want = tiny.run(output_type="latent")
    tiles = []
    real = attention.lin_reduce
    monkeypatch.setattr(
        attention, "lin_reduce", lambda k, v, **w: tiles.append(k.shape[1]) or real(k, v, **w)
    )
    with planned(tiny, ("attention",)).applied(tiny.pipe):
        got = tiny.run(output_type="latent")
    assert close(got, want)
    assert max(tiles) == TOKENS and min(tiles) < TOKENS


def test_text_cross_attention_is_streamed_over_its_queries():
    tiny = build("sd")
    want, seen = tiny.run(output_type="latent"), []
    with planned(tiny, ("attention",)).applied(tiny.pipe):
        for name, module in tiny.model.named_modules():
            if name.endswith("attn2.to_q"):
                module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        got = tiny.run(output_type="latent")
    assert close(got, want) and max(seen) == TOKENS


@pytest.mark.parametrize("kind", ("sd", "sdxl"))
def test_parked_skips_draw_the_same_picture_to_the_last_bit(kind):
    tiny = build(kind)
    want = tiny.run(output_type="latent")
    with planned(tiny, ("skips",)).applied(tiny.pipe):
        got = tiny.run(output_type="latent")
    assert torch.equal(got, want)


def test_a_parked_skip_holds_no_tensor_until_it_comes_back():
    import weakref

    tensor = torch.randn(2, 3, 4, 5).to(torch.bfloat16).transpose(1, 3)
    kept, gone = tensor.clone(), weakref.ref(tensor)
    skip = Skip(tensor)
    assert skip.take() is tensor
    del tensor
    assert gone() is None
    assert (tuple(skip.shape), skip.dtype, skip.ndim) == ((2, 5, 4, 3), torch.bfloat16, 4)
    assert torch.equal(torch.cat([kept, skip], 1), torch.cat([kept, kept], 1))
    assert torch.equal(skip[:, 1], kept[:, 1]) and torch.equal(skip.float(), kept.float())
    assert gone() is None


def test_parked_skips_take_a_controlnets_and_freeus_changes():
    tiny = build("sd")
    from diffusers import StableDiffusionControlNetPipeline

    both = tiny.variant(
        StableDiffusionControlNetPipeline, {"controlnet": controlnet(tiny.model)}, image=picture()
    )
    both.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    want = both.run(output_type="latent")
    with planned(both, ("skips",)).applied(both.pipe):
        got = both.run(output_type="latent")
    assert torch.equal(got, want)


def test_all_measures_together_draw_the_same_picture():
    tiny = build("sdxl")
    linearize(tiny.pipe, "linfusion")
    tiny.pipe.vae.enable_tiling()
    want = tiny.run()
    with planned(tiny, MEASURES[:5], tile=32).applied(tiny.pipe):
        got = tiny.run()
    assert close(got, want)


def forwards(model):
    return {name: module.__dict__.get("forward") for name, module in model.named_modules()}


def test_after_an_error_the_pipeline_is_as_it_was():
    tiny = build("sdxl")
    linearize(tiny.pipe, "linfusion")
    vae, before = tiny.pipe.vae, forwards(tiny.model)
    settings = (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size)
    made = planned(tiny, MEASURES, tile=16)
    with pytest.raises(RuntimeError, match="stopped"), made.applied(tiny.pipe):
        assert forwards(tiny.model) != before and (vae.use_tiling, vae.tile_sample_min_size) == (True, 16)
        raise RuntimeError("stopped")
    assert forwards(tiny.model) == before
    assert settings == (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size)


def test_an_error_while_measures_are_switched_on_leaves_none_on(monkeypatch):
    from linzoo.diffusion.memory import stages

    tiny = build("sd")
    before, made = forwards(tiny.model), planned(tiny, ("feed_forward", "rows"))
    monkeypatch.setattr(stages, "rows_in_turn", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"), made.applied(tiny.pipe):
        raise AssertionError("unreachable")
    assert forwards(tiny.model) == before


def test_hooks_of_offloading_run_inside_the_measures():
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Counts(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    tiny, hook = build("sd"), Counts()
    want = tiny.run(output_type="latent")
    layer = next(m for n, m in tiny.model.named_modules() if n.endswith(".ff"))
    add_hook_to_module(layer, hook)
    hooked = layer.forward
    with ExitStack() as stack:
        chunk_feed_forwards(stack, tiny.model, TOKENS)
        park_skips(stack, tiny.model)
        assert close(tiny.run(output_type="latent"), want)
    assert hook.calls > 2 and layer.forward == hooked
