"""InLine's mixer: the equation, what makes it injective, the predicted convolution, masks and precision."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from linzoo.vision.inline.local import LocalKernel, _nine_products, convolve_each
from linzoo.vision.inline.mixer import InLineAttention, inline_attention, mean_token


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def weights_by_definition(q, k):
    """The N x N matrix of the paper: (B, N, H, d) twice -> (B, H, N, N)."""
    count, scale = k.shape[1], k.shape[-1] ** -0.5
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale / count
    return scores - scores.mean(-1, keepdim=True) + 1 / count


def module(dim=24, heads=3, dtype=torch.float64):
    mixer = InLineAttention(dim, heads, dtype=dtype)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return mixer


# --- the equation


@pytest.mark.parametrize("count", [1, 2, 35])
def test_the_output_is_that_of_the_matrix_whose_rows_sum_to_one(count):
    q, k, v = randn(3, 2, count, 3, 8).unbind()
    matrix = weights_by_definition(q, k)
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix.sum(-1)))
    assert count == 1 or (matrix < 0).any()
    want = torch.einsum("bhij,bjhd->bihd", matrix, v)
    torch.testing.assert_close(inline_attention(q, k, v), want, rtol=1e-12, atol=1e-12)


def test_equal_values_come_back_unchanged():
    q, k = randn(2, 1, 20, 2, 8).unbind()
    v = randn(1, 1, 2, 8).expand(1, 20, 2, 8)
    torch.testing.assert_close(inline_attention(q, k, v), v)


def test_queries_of_one_direction_and_different_length_get_different_weights():
    """Division by a sum gives them the same: that is what the paper removes."""
    k, v = randn(2, 1, 20, 1, 8).abs().unbind()
    q = torch.stack((k[:, 0], 2 * k[:, 0]), 1)
    divided = torch.einsum("bihd,bjhd->bhij", q, k)
    divided = divided / divided.sum(-1, keepdim=True)
    torch.testing.assert_close(divided[..., 0, :], divided[..., 1, :])
    first, second = inline_attention(q.repeat(1, 10, 1, 1), k, v)[0, :2]
    assert (first - second).norm() > 0.05 * first.norm()


def test_a_shift_of_all_keys_changes_nothing_and_a_shift_of_the_values_shifts_the_output():
    q, k, v = randn(3, 1, 20, 2, 8).unbind()
    want = inline_attention(q, k, v)
    torch.testing.assert_close(inline_attention(q, k + 5, v), want)
    torch.testing.assert_close(inline_attention(q, k, v + 5), want + 5)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=["f32", "bf16"]
)
def test_an_offset_of_3_costs_no_digits_at_3137_tokens(dtype, bound):
    q, k, v = (randn(1, 3137, 1, 32) + 3 for _ in range(3))
    rounded = [t.to(dtype) for t in (q, k, v)]
    want = inline_attention(*(t.double() for t in rounded))
    got = inline_attention(*rounded)
    assert got.dtype == dtype
    assert ((got.double() - want).norm() / want.norm()).item() < bound


# --- the local residual


def test_the_kernel_generator_is_the_authors_two_grouped_convolutions():
    heads, dim = 3, 24
    kernel = LocalKernel(dim, heads, dtype=torch.float64)
    first = nn.Conv1d(dim, dim, 1, groups=heads, dtype=torch.float64)
    second = nn.Conv1d(dim, 9 * dim, 1, groups=heads, dtype=torch.float64)
    for mine, theirs in ((kernel.fc1, first), (kernel.fc2, second)):
        mine.load_state_dict({"weight": theirs.weight.detach().squeeze(-1), "bias": theirs.bias.detach()})
    mu = randn(2, dim)
    want = second(F.gelu(first(mu.unsqueeze(-1)))).reshape(2, dim, 3, 3)
    torch.testing.assert_close(kernel(mu), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [convolve_each, _nine_products])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 7), (8, 8)], ids="{0[0]}x{0[1]}".format)
def test_each_image_is_convolved_with_its_own_taps(form, grid):
    x, taps = randn(3, *grid, 5), randn(3, 5, 3, 3)
    want = torch.stack(
        [
            F.conv2d(image.permute(2, 0, 1), own.unsqueeze(1), padding=1, groups=5).permute(1, 2, 0)
            for image, own in zip(x, taps, strict=True)
        ]
    )
    torch.testing.assert_close(form(x, taps), want, rtol=1e-12, atol=1e-12)


def test_the_two_forms_of_the_convolution_have_the_same_gradients():
    x, taps, probe = randn(2, 5, 6, 4), randn(2, 4, 3, 3), randn(2, 5, 6, 4)
    grads = []
    for form in (convolve_each, _nine_products):
        a, b = x.clone().requires_grad_(), taps.clone().requires_grad_()
        grads.append(torch.autograd.grad((form(a, b) * probe).sum(), (a, b)))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_every_token_reaches_every_tap():
    mixer = module()
    x = randn(1, 4, 5, 24).requires_grad_()
    taps = mixer.local(mean_token(x.flatten(1, 2)))
    (grad,) = torch.autograd.grad(taps[0, :, 2, 2].sum(), x)
    assert (grad.abs().sum(-1) > 0).all()


# --- grids, prefixes, masks


def test_the_whole_module_is_its_definition_on_a_grid_that_is_no_square():
    mixer = module()
    x = randn(2, 4, 9, 24)
    tokens = x.flatten(1, 2)
    q, k, v = mixer.qkv(tokens).unflatten(-1, (3, 3, 8)).unbind(2)
    o = torch.einsum("bhij,bjhd->bihd", weights_by_definition(q, k), v).flatten(2)
    local = _nine_products(v.flatten(2).unflatten(1, (4, 9)), mixer.local(tokens.mean(1)))
    torch.testing.assert_close(mixer(x), mixer.proj(o + local.flatten(1, 2)).unflatten(1, (4, 9)))


def test_a_4x16_grid_is_not_read_as_8x8():
    mixer = module()
    tokens = randn(1, 64, 24)
    wide, square = mixer.on_tokens(tokens, (4, 16)), mixer.on_tokens(tokens, (8, 8))
    assert (wide - square).norm() > 1e-3 * square.norm()


def test_a_prefix_token_counts_in_every_mean_and_gets_no_local_term():
    mixer = module()
    tokens = randn(1, 1 + 12, 24)
    out = mixer.on_tokens(tokens, (3, 4), prefix=1)
    q, k, v = mixer.qkv(tokens).unflatten(-1, (3, 3, 8)).unbind(2)
    o = inline_attention(q, k, v).flatten(2)
    torch.testing.assert_close(out[:, 0], mixer.proj(o[:, 0]))
    taps = mixer.local(tokens.mean(1))
    local = _nine_products(v[:, 1:].flatten(2).unflatten(1, (3, 4)), taps).flatten(1, 2)
    torch.testing.assert_close(out[:, 1:], mixer.proj(o[:, 1:] + local))


def test_a_masked_padded_batch_equals_each_image_alone():
    mixer = module()
    sizes = [(5, 7), (3, 4), (5, 2)]
    images = [randn(*size, 24) for size in sizes]
    batch, mask = randn(3, 5, 7, 24), torch.zeros(3, 5, 7, dtype=torch.bool)  # padding holds anything
    for n, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        batch[n, :height, :width], mask[n, :height, :width] = image, True
    out = mixer(batch, mask=mask)
    for n, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        alone = mixer(image.unsqueeze(0))[0]
        torch.testing.assert_close(out[n, :height, :width], alone, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(mixer(batch)[1, :3, :4], out[1, :3, :4])


def test_it_serves_any_stage_of_the_pyramid():
    model = timm.create_model(
        "ravlt_tiny",
        dims=(16, 32, 48, 64),
        depths=(1,) * 4,
        heads=(1, 2, 3, 4),
        mixers="inline",
        num_classes=3,
    )
    assert {type(stage.blocks[0].attn) for stage in model.stages} == {InLineAttention}
    model(torch.randn(2, 3, 64, 96)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_under_autocast_it_runs_in_bfloat16():
    mixer = module(dtype=torch.float32)
    x = torch.randn(1, 6, 7, 24)
    with torch.autocast("cpu", torch.bfloat16):
        got = mixer(x)
    assert got.dtype == torch.bfloat16
    assert ((got.float() - mixer(x)).norm() / mixer(x).norm()).item() < 0.03
