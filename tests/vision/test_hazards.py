"""Where these models can go wrong numerically, and do not: each test is one hazard."""

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from linzoo.kernels import linear_attn
from linzoo.vision.layers import make_mixer, rope, rope_table, rotate
from linzoo.vision.nalaformer.mixer import key_features, query_features
from linzoo.vision.ravlt.mixer import key_weights

CPU = torch.device("cpu")
FAMILIES = ("ravlt_tiny", "mala_tiny", "nalaformer_xt")
SMALL = {
    "dims": (16, 32, 32, 64),
    "depths": (1, 1, 1, 1),
    "heads": (1, 2, 2, 2),
    "neck_dim": 32,
    "num_classes": 5,
}


def small(name, **kwargs):
    return timm.create_model(name, **SMALL, **kwargs)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def run_mixer(mixer, x, dtype, height, width):
    tables = rope_table(height, width, x.shape[-1] // mixer.heads, CPU, dtype)
    return mixer.to(dtype)(x.to(dtype), tables)


# --- NaLa's normalisation and powers


def test_a_query_of_zeros_gives_no_nan_forward_or_backward():
    q = torch.randn(2, 9, 2, 8)
    q[0, 3, 1] = 0
    q.requires_grad_()
    f = query_features(q)
    assert f.isfinite().all()
    assert (f[0, 3, 1] == 0).all()
    (grad,) = torch.autograd.grad((f * torch.randn_like(f)).sum(), q)
    assert grad.isfinite().all()
    assert (grad[0, 3, 1] == 0).all()
    mixer = make_mixer("nala", 16, 2)
    with torch.no_grad():
        mixer.qkvg.weight[:8] = 0  # the queries of head 0 are 0 for every token
        mixer.qkvg.bias[:8] = 0
    x = torch.randn(1, 4, 5, 16, requires_grad=True)
    y = mixer(x, rope_table(4, 5, 8, CPU, torch.float32))
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_guarding_zero_queries_changes_no_bit_elsewhere(dtype):
    q = torch.randn(1, 50, 3, 16, dtype=dtype)
    n = q.norm(dim=-1, keepdim=True)
    u, p = q / n, 3 * (0.5 + n.tanh())
    assert torch.equal(query_features(q), torch.cat((u.relu() ** p, (-u).relu() ** p), -1))


def test_channels_that_are_exactly_zero_have_gradient_zero():
    q = torch.tensor([[[[0.0, 1.0, -2.0, 0.0]]]], requires_grad=True)
    f = query_features(q)
    weights = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 1])  # of the channels that are 0, in both halves
    (grad,) = torch.autograd.grad((f * weights).sum(), q)
    assert (grad == 0).all()


def test_query_features_have_the_right_gradient():
    q = torch.randn(1, 3, 2, 4, dtype=torch.float64)
    q = (q + 0.1 * q.sign()).requires_grad_()  # away from the kink at 0
    assert torch.autograd.gradcheck(query_features, q)
    assert torch.autograd.gradcheck(key_features, q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_cubes_and_powers_are_taken_in_float32(dtype):
    k = torch.full((1, 1, 1, 4), 60.0, dtype=dtype)  # 60^3 is past float16's 65504
    assert key_features(k).dtype == torch.float32
    assert key_features(k)[..., :4].eq(216000).all()
    assert query_features(k).dtype == torch.float32


# --- half precision


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)], ids=str)
@pytest.mark.parametrize("name", ["rala", "mala", "nala", "softmax", "nala_softmax"])
def test_mixers_cast_to_half_stay_near_float64(name, dtype, bound):
    mixer = make_mixer(name, 64, 2, dtype=torch.float64)
    x = torch.randn(1, 14, 15, 64, dtype=torch.float64)
    expected = run_mixer(mixer, x, torch.float64, 14, 15)
    got = run_mixer(mixer, x, dtype, 14, 15)
    assert got.dtype == dtype
    assert relative(got, expected) < bound


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_models_under_autocast_stay_near_float32_and_train(name, dtype, bound):
    model = small(name, drop_path_rate=0.0)
    x = torch.randn(2, 3, 96, 96)
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with torch.autocast("cpu", dtype):
        logits = model(x)
    mixed = torch.autograd.grad(logits.float().square().sum(), list(model.parameters()))
    assert logits.dtype == dtype
    assert relative(logits, model(x)) < bound
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (mixed, plain))
    assert relative(a, b) < 5 * bound


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_models_cast_to_half_stay_near_float32(name, dtype, bound):
    model = small(name).eval()
    x = torch.randn(2, 3, 96, 130)
    with torch.inference_mode():
        expected = model(x)
        got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert relative(got, expected) < bound


@pytest.mark.parametrize("name", ["rala", "mala", "nala"])
def test_float16_sums_over_a_large_grid_stay_in_range(name):
    """200 x 336 tokens: sums would pass float16's 65504, weights sink below its normal range."""
    mixer = make_mixer(name, 32, 1, dtype=torch.float64)
    x = 2 * torch.randn(1, 200, 336, 32, dtype=torch.float64)
    with torch.inference_mode():
        expected = run_mixer(mixer, x, torch.float64, 200, 336)
        got = run_mixer(mixer, x, torch.float16, 200, 336)
    assert relative(got, expected) < 2e-3


def elu1(x):
    return torch.nn.functional.elu(x.double()) + 1


def test_malas_difference_keeps_its_digits_for_large_queries_in_float16():
    """y = u (1 + 1/z) - z mean(v): for large z two large numbers nearly cancel."""
    q, k = (20 * torch.randn(1, 400, 2, 32)).half(), torch.randn(1, 400, 2, 32).half()
    v = (torch.randn(1, 400, 2, 32) + 1).half()
    z = torch.einsum("bnhd,bhd->bnh", elu1(q), elu1(k).mean(1)) * 32**-0.5
    assert 90 < z.max() < 150
    expected = linear_attn(q.double(), k.double(), v.double(), feature="elu1", norm="mag", eps=1e-6)
    got = linear_attn(q, k, v, feature="elu1", norm="mag", eps=1e-6)
    assert got.dtype == torch.float16
    assert relative(got, expected) < 1e-3


@pytest.mark.parametrize("norm", ["mag", "sum"])
def test_an_eps_below_float16_still_counts_where_denominators_are_as_small(norm):
    q, k = (torch.randn(2, 1, 60, 2, 16) - 8).half()  # phi = exp: a denominator of some 1e-6
    v = torch.randn(1, 60, 2, 16).half()
    z = torch.einsum("bnhd,bhd->bnh", elu1(q), elu1(k).mean(1))
    assert 1e-7 < z.median() < 1e-5
    wide = [t.double() for t in (q, k, v)]
    expected = linear_attn(*wide, feature="elu1", norm=norm, eps=1e-6)
    assert relative(linear_attn(q, k, v, feature="elu1", norm=norm, eps=1e-6), expected) < 3e-3
    assert relative(linear_attn(*wide, feature="elu1", norm=norm, eps=0.0), expected) > 0.1, (
        "eps matters here"
    )


def test_key_weights_in_float16_have_mean_one_over_many_tokens():
    q, k = torch.randn(2, 1, 70_000, 2, 8).half()
    weights = key_weights(q, k)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.mean(1), torch.ones(1, 2), atol=1e-5)
    assert relative(weights, key_weights(q.double(), k.double())) < 1e-3


# --- rotary tables


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_rotary_tables_are_float32_for_every_dtype_but_float64(dtype):
    cos, sin = rope_table(3, 400, 8, CPU, dtype)
    assert cos.dtype == sin.dtype == torch.float32
    exact = rope_table(3, 400, 8, CPU, torch.float64)
    assert exact[0].dtype == torch.float64
    assert (cos - exact[0]).abs().max() < 5e-5  # a float32 phase of 400 radians; rounded tables: up to 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_casting_a_model_does_not_round_its_rotary_tables(dtype):
    model = small("ravlt_tiny").to(dtype)
    assert not any("angle" in name or "rope" in name.lower() for name in model.state_dict())
    x = torch.randn(1, 400, 1, 8).to(dtype)
    turned = rotate(x, rope_table(1, 400, 8, CPU, dtype))
    exact = rotate(x.double(), rope_table(1, 400, 8, CPU, torch.float64))
    assert turned.dtype == dtype
    assert relative(turned, exact) < torch.finfo(dtype).eps


def test_tables_made_under_inference_mode_serve_training_later():
    model = small("ravlt_tiny")
    rope._CACHE.clear()
    x = torch.randn(2, 3, 72, 40)
    with torch.inference_mode():
        model.eval()(x)
    assert rope._CACHE  # so that the training step below reads what inference wrote
    assert not any(t.is_inference() for pair in rope._CACHE.values() for t in pair)
    model.train()(x).sum().backward()


def test_tables_are_kept_per_size_and_dtype_and_only_when_small():
    rope._CACHE.clear()
    first = rope_table(5, 6, 8, CPU, torch.float32)
    assert rope_table(5, 6, 8, CPU, torch.float16) is first
    assert rope_table(6, 5, 8, CPU, torch.float32) is not first
    assert rope_table(5, 6, 8, CPU, torch.float64)[0].dtype == torch.float64
    assert rope_table(5, 6, 8, torch.device("meta"), torch.float32)[0].is_meta
    kept = len(rope._CACHE)
    rope_table(1024, 1024, 8, CPU, torch.float32)
    assert len(rope._CACHE) == kept
    for size in range(1, 40):
        rope_table(size, 1, 8, CPU, torch.float32)
    assert len(rope._CACHE) == rope._CACHE_ENTRIES


def test_tables_of_fake_tensors_are_not_kept():
    from torch._subclasses.fake_tensor import FakeTensorMode

    rope._CACHE.clear()
    real = rope_table(4, 4, 8, CPU, torch.float32)
    with FakeTensorMode():
        fake = rope_table(4, 4, 8, CPU, torch.float32)
        rope_table(4, 7, 8, CPU, torch.float32)
    assert type(fake[0]) is not torch.Tensor
    assert rope_table(4, 4, 8, CPU, torch.float32) is real
    assert len(rope._CACHE) == 1


def test_repeated_tables_are_the_table_side_by_side():
    once = rope_table(3, 5, 8, CPU, torch.float32)
    twice = rope_table(3, 5, 8, CPU, torch.float32, copies=2)
    assert all(torch.equal(b, torch.cat((a, a), -1)) for a, b in zip(once, twice, strict=True))
    mixer, x = make_mixer("nala", 16, 2), torch.randn(1, 3, 5, 16)
    assert torch.equal(mixer(x, once), mixer(x, twice))


@pytest.mark.parametrize("head_dim", [0, 2, 6])
def test_head_widths_that_rotary_cannot_split_are_refused(head_dim):
    with pytest.raises(ValueError, match=f"head_dim must be a positive multiple of 4, got {head_dim}"):
        rope_table(2, 2, head_dim, CPU, torch.float32)


# --- sizes and layouts


@pytest.mark.parametrize("size", [(225, 231), (17, 40), (7, 7), (33, 1)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_runs_and_grids_are_ceilings(name, size):
    model = small(name).eval()
    height, width = size
    with torch.inference_mode():
        final, maps = model.forward_intermediates(torch.randn(1, 3, height, width))
        for i, feature in enumerate(maps):
            step = 4 * 2**i
            assert feature.shape[2:] == (-(-height // step), -(-width // step))
        assert model.forward_head(final).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_images_give_the_same_output(name):
    model = small(name).eval()
    x = torch.randn(2, 3, 50, 70)
    with torch.inference_mode():
        expected = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_neck_can_be_differentiated_twice():
    neck = small("mala_tiny").eval().neck
    x = torch.randn(1, 64, 3, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(neck(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    assert second.isfinite().all() and second.abs().sum() > 0


@pytest.mark.parametrize("name", ["softmax", "nala_softmax"])
def test_softmax_stages_do_not_hold_the_attention_matrix(name):
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, torch.Tensor):
                    self.numel = max(self.numel, t.numel())
            return out

    mixer = make_mixer(name, 32, 2)
    tables = rope_table(50, 80, 16, CPU, torch.float32)
    with torch.inference_mode(), Largest() as largest:
        mixer(torch.randn(1, 50, 80, 32), tables)
    assert largest.numel < 4000 * 4000


def test_training_on_a_single_token_of_one_image_is_refused_by_batchnorm():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        small("ravlt_tiny").train()(torch.randn(1, 3, 32, 32))
