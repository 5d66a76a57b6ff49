"""Calls of a LiT model: any grid, no mask over the image, copies, threads, graphs, checkpoints, dtypes."""

import copy
import threading
import warnings

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

from linzoo.diffusion import linearize, linearized  # noqa: E402
from linzoo.kernels import ShapeError  # noqa: E402

from .pipelines import build, embeds  # noqa: E402
from .slow_forms import LitForm, disturb, install  # noqa: E402

KINDS = ["dit", "pixart_sigma"]


def swapped(kind: str, layers: int = 2, **options):
    """A LiT model with no weight at its initial value."""
    model = build(kind, num_layers=layers).model
    disturb(linearize(model, "lit", **{"heads": 2} | options))
    return model


def words_of(kind: str, rows: int, columns: int) -> dict:
    """Arguments for a latent of rows x columns patches, two images."""
    words = {"hidden_states": embeds(2, 4, 2 * rows, 2 * columns), "timestep": torch.tensor([7, 400])}
    if kind == "dit":
        return words | {"class_labels": torch.tensor([3, 8])}
    mask = torch.ones(2, 12)
    mask[1, 7:] = 0
    return words | {"encoder_hidden_states": embeds(2, 12, 32, seed=2), "encoder_attention_mask": mask}


@pytest.mark.parametrize("grid", [(8, 8), (4, 16), (3, 5), (5, 3)], ids=str)
def test_pixart_on_any_grid_equals_the_slow_form(grid):
    model, twin = swapped("pixart_sigma"), build("pixart_sigma").model
    install(twin, linearized(model), lambda module: LitForm(module, 2, grid))
    words = words_of("pixart_sigma", *grid)
    torch.testing.assert_close(model(**words).sample, twin(**words).sample, rtol=2e-5, atol=2e-5)


def test_dit_s_last_layer_is_diffusers_own_on_a_square_grid(monkeypatch):
    model = swapped("dit")
    words = words_of("dit", 8, 8)
    want = model(**words).sample
    monkeypatch.setattr("linzoo.diffusion.lit.forward.is_square", lambda grid: False)
    assert torch.equal(model(**words).sample, want)
    assert torch.equal(model(**words, return_dict=False)[0], want)
    assert type(model(**words)) is type(build("dit").model(**words))


@pytest.mark.parametrize("grid", [(4, 16), (3, 5)], ids=str)
def test_dit_draws_latents_that_are_not_square(grid):
    """Each block with the slow form; the last layer patch by patch."""
    model, twin = swapped("dit"), build("dit").model
    install(twin, linearized(model), lambda module: LitForm(module, 2, grid))
    words = words_of("dit", *grid)
    got = model(**words).sample
    assert got.shape == (2, 8, 2 * grid[0], 2 * grid[1])
    tokens = twin.pos_embed(words["hidden_states"])
    named = {"timestep": words["timestep"], "class_labels": words["class_labels"]}
    for block in twin.transformer_blocks:
        tokens = block(tokens, **named)
    for number in range(grid[0] * grid[1]):
        # a picture of one patch is a square to diffusers: its own last layer on this token alone
        y, x = divmod(number, grid[1])
        want = last_layer(twin, tokens[:, number : number + 1], named)
        patch = got[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        torch.testing.assert_close(patch, want, rtol=2e-5, atol=2e-5)


def last_layer(model, tokens, named):
    """diffusers' output of a DiT whose blocks leave ``tokens`` as they are."""
    headless = copy.copy(model)
    headless._modules = model._modules | {"pos_embed": lambda latent: tokens}
    blocks = torch.nn.ModuleList(Through(block.norm1) for block in model.transformer_blocks)
    headless._modules["transformer_blocks"] = blocks
    return headless(torch.zeros(2, 4, 2, 2), **named).sample


class Through(torch.nn.Module):
    def __init__(self, norm1):
        super().__init__()
        self.norm1 = norm1

    def forward(self, hidden_states, **_):
        return hidden_states


def test_an_attention_alone_takes_its_grid_and_refuses_one_that_does_not_fit():
    attention = swapped("dit").transformer_blocks[0].attn1
    x = embeds(1, 12, 32)
    assert not torch.equal(attention(x, grid=(3, 4)), attention(x, grid=(2, 6)))
    with pytest.raises(ShapeError, match="grid must hold 12 tokens, got 5 x 2"):
        attention(x, grid=(5, 2))
    with pytest.raises(ShapeError, match=r"grid must be \(rows, columns\) of the image tokens, got None"):
        attention(x)
    plain = swapped("dit", kernel_size=None).transformer_blocks[0].attn1
    assert torch.equal(plain(x), plain(x, grid=(3, 4)))  # nothing asks where a token lies


def test_a_mask_over_image_tokens_and_a_context_are_refused():
    model = swapped("pixart_sigma")
    words = words_of("pixart_sigma", 3, 5)
    with pytest.raises(ValueError, match=r"attention_mask must be None, got shape \(2, 15\).*encoder_att"):
        model(**words, attention_mask=torch.ones(2, 15))
    attention = model.transformer_blocks[0].attn1
    x = embeds(1, 15, 32)
    with pytest.raises(ValueError, match=r"attention_mask must be None, got shape \(1, 1, 15\)"):
        attention(x, attention_mask=torch.zeros(1, 1, 15), grid=(3, 5))
    with pytest.raises(ValueError, match="encoder_hidden_states must be None"):
        attention(x, encoder_hidden_states=x, grid=(3, 5))


def test_text_masks_keep_their_effect_and_nothing_warns():
    model = swapped("pixart_sigma")
    words = words_of("pixart_sigma", 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked = model(**words).sample
    words["encoder_hidden_states"][1, 7:] = 100.0  # behind the mask
    torch.testing.assert_close(model(**words).sample, masked)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_logs_no_unknown_word_for_the_attention_to_the_text(kind, monkeypatch):
    logged = []
    from diffusers.models import attention_processor

    monkeypatch.setattr(attention_processor.logger, "warning", logged.append)
    swapped(kind)(**words_of(kind, 3, 5))
    assert logged == []


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    model, words = swapped(kind), words_of(kind, 3, 5)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(**words).sample.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.endswith("attn1.conv.weight") and g.any() for name, g in gradients[0].items())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_is_one_graph_and_gives_the_same(kind):
    model = swapped(kind, layers=1)
    words = words_of(kind, 3, 5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**words).sample, model(**words).sample, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(kind, dtype):
    model = swapped(kind)
    words = words_of(kind, 6, 10)
    want = model(**words).sample
    model.to(dtype)
    words = {n: x.to(dtype) if x.is_floating_point() else x for n, x in words.items()}
    got = model(**words).sample
    assert got.dtype == dtype
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    assert (got.float() - want).norm() < tolerance * want.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_with_different_grids_and_copies_do_not_disturb_each_other(kind):
    model = swapped(kind)
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    jobs = [words_of(kind, *grid) for grid in ((3, 5), (8, 8), (5, 3))]
    want = [twin(**words).sample for words in jobs]
    got: dict[int, list] = {0: [], 1: [], 2: []}

    def run(number: int) -> None:
        got[number] = [model(**jobs[number]).sample for _ in range(4)]

    threads = [threading.Thread(target=run, args=(number,)) for number in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, samples in got.items():
        assert len(samples) == 4
        assert all(torch.equal(sample, want[number]) for sample in samples)
