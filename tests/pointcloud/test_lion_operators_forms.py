"""The blocks against slow forms of their formulas, token by token or pair by pair."""

import pytest
import torch
from torch import Tensor, nn

from .lion_operator_cases import filled, small, tokens


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1))


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 64, 150])
def test_retention_sees_its_block_both_ways_and_earlier_blocks_causally(count):
    layer, x = small("retnet").multi_scale_retention, tokens(1, count)
    q, k, v = (heads(f(x), 2)[0] for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    place = torch.arange(count)
    distance = (place[:, None] - place).abs()
    seen = place // 64 <= (place // 64)[:, None]
    decay = torch.stack([(1 - 2.0 ** (-5 - h)) ** distance.double() * seen for h in range(2)])
    scores = torch.einsum("ihd,jhd->hij", q, k) * 8**-0.5 * decay
    close(layer(x, None)[0], layer.o_proj(torch.einsum("hij,jhe->ihe", scores, v).flatten(1)))


def two_way_wkv(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """(T, H, D) each, u (H, D): two loops over steps."""
    out = []
    for reverse in (False, True):
        order = range(len(r) - 1, -1, -1) if reverse else range(len(r))
        S, y = r.new_zeros(r.shape[1], r.shape[2], r.shape[2]), torch.empty_like(r)
        for t in order:
            kv = k[t].unsqueeze(-1) * v[t].unsqueeze(-2)
            seen = S if reverse else S + u.unsqueeze(-1) * kv
            y[t] = (r[t].unsqueeze(-1) * seen).sum(-2)
            S = (-w[t].exp()).exp().unsqueeze(-1) * S + kv
        out.append(y)
    return out[0] + out[1]


@pytest.mark.parametrize(("count", "channels", "parts"), [(50, 16, 2), (37, 21, 3), (4200, 4, 1)], ids=str)
def test_rwkv_is_a_loop_over_steps_at_any_head_width_and_beyond_4096_tokens(count, channels, parts):
    from linzoo.pointcloud.lion.operators import make_operator

    words = {"heads": parts, "mix_rank": 4, "decay_rank": 4}
    layer = filled(make_operator("rwkv", channels, 0, 4, **words)).att
    x = torch.randn(1, count, channels, dtype=torch.float64)
    with torch.no_grad():
        before = nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        x_w, x_k, x_v, x_r, x_g = layer.mixes(x, before)
        w = layer.time_decay + torch.tanh(x_w @ layer.time_decay_w1) @ layer.time_decay_w2
        parts_of = (layer.receptance(x_r), layer.key(x_k), layer.value(x_v), w)
        y = two_way_wkv(*(heads(t, parts)[0] for t in parts_of), layer.time_faaaa).flatten(1)
        y = layer.ln_x(y) * nn.functional.silu(layer.gate(x_g))
        close(layer(x, before, None), layer.output(y))


def test_the_mixes_of_rwkv_are_the_low_rank_ones_in_the_order_w_k_v_r_g():
    layer, x = small("rwkv").att, tokens(2, 9)
    before = nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    base = x + (before - x) * layer.time_maa_x
    for i, (name, got) in enumerate(zip("wkvrg", layer.mixes(x, before), strict=True)):
        low = torch.tanh(base @ layer.time_maa_w1[:, 4 * i : 4 * i + 4]) @ layer.time_maa_w2[i]
        close(got, x + (before - x) * (getattr(layer, f"time_maa_{name}") + low))


@pytest.mark.parametrize("reverse", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("count", [1, 70])
def test_mlstm_is_the_quadratic_form_and_its_second_half_that_of_the_flipped_sequence(count, reverse):
    model = small("mlstm")
    cell = (model.rowwise_from_bot_right if reverse else model.rowwise_from_top_left).layer.mlstm_cell
    q, k, v = (torch.randn(1, count, 32, dtype=torch.float64) for _ in range(3))
    got = cell(q, k, v, None, reverse)[0]
    q, k, v = (x[0].flip(0) if reverse else x[0] for x in (q, k, v))
    qkv = torch.cat([q, k, v], -1)
    take, total = cell.igate(qkv), nn.functional.logsigmoid(cell.fgate(qkv)).cumsum(0)
    logs = total[:, None] - total + take  # (i, j, H)
    later = torch.arange(count) > torch.arange(count)[:, None]
    logs = logs.masked_fill(later.unsqueeze(-1), -torch.inf)
    most = logs.amax(1, keepdim=True)
    scores = torch.einsum("ihd,jhd->ijh", heads(q, 4), heads(k, 4)) * 8**-0.5 * (logs - most).exp()
    below = torch.maximum(scores.sum(1).abs(), (-most[:, 0]).exp()) + 1e-6
    h = torch.einsum("ijh,jhe->ihe", scores, heads(v, 4)) / below.unsqueeze(-1)
    normal = nn.functional.layer_norm(h, h.shape[-1:], eps=1e-5).flatten(1)
    wanted = normal * (1 + cell.outnorm.weight) + cell.outnorm.bias
    close(got, wanted.flip(0) if reverse else wanted)


@pytest.mark.parametrize("count", [1, 33])
def test_mamba_is_two_loops_over_steps_that_share_projections_and_gate(count):
    layer, x = small("mamba").mamba, tokens(1, count)
    u, z = layer.in_proj(x)[0].chunk(2, -1)
    total = 0
    for end in ("", "_b"):
        conv, x_proj, dt_proj = (getattr(layer, name + end) for name in ("conv1d", "x_proj", "dt_proj"))
        A_log, D = (layer.A_b_log, layer.D_b) if end else (layer.A_log, layer.D)
        own = u.flip(0) if end else u
        padded = nn.functional.pad(own.T.unsqueeze(0), (3, 0))
        own = nn.functional.silu(nn.functional.conv1d(padded, conv.weight, conv.bias, groups=32))[0].T
        low, B, C = x_proj(own).split([1, 4, 4], -1)
        delta = nn.functional.softplus(dt_proj(low))
        s, rows = own.new_zeros(32, 4), []
        for t in range(count):
            s = (delta[t, :, None] * -A_log.exp()).exp() * s + (delta[t] * own[t])[:, None] * B[t]
            rows.append(s @ C[t] + D * own[t])
        y = torch.stack(rows)
        total = total + (y.flip(0) if end else y) * nn.functional.silu(z)
    close(layer(x, None)[0], layer.out_proj(total))


def test_linear_attention_is_a_mean_of_values_by_positive_weights():
    for feature, phi in (("elu1", lambda x: nn.functional.elu(x) + 1), ("relu", torch.relu)):
        model, x = small("linear", feature=feature), tokens(1, 30)
        q, k, v = (heads(t, 2) for t in model.qkv(model.norm1(x))[0].chunk(3, -1))
        weights = torch.einsum("ihd,jhd->ijh", phi(q), phi(k))
        weights = weights / (weights.sum(1, keepdim=True) + 30 * 1e-6)
        y = x + model.proj(torch.einsum("ijh,jhe->ihe", weights, v).flatten(1))
        close(model(x), y + model.ffn(model.norm2(y)))


def test_gated_attention_decays_from_token_to_token_in_both_directions():
    layer, x = small("gated").attention, tokens(1, 40)
    q, k, v = (heads(t, 2) for t in layer.qkv(x)[0].chunk(3, -1))
    total = heads(nn.functional.logsigmoid(layer.decay(x))[0] / 16, 2).cumsum(0)
    before = total - total[:1] * 0
    own = torch.cat([total[:1], total[1:] - total[:-1]])
    i, j = torch.arange(40)[:, None], torch.arange(40)
    past = (before[:, None] - before).exp() * (j <= i)[..., None, None]  # m in (j, i]
    later = (before - own - (before - own)[:, None]).exp() * (j > i)[..., None, None]  # m in [i, j)
    y = torch.einsum("ihd,jhd,ijhd,jhe->ihe", q, k, past + later, v) * 8**-0.5
    y = layer.norm(y).flatten(1) * nn.functional.silu(layer.gate(x))
    close(layer(x, None), layer.proj(y))


@pytest.mark.parametrize("name", ["linear", "gated"])
def test_operators_of_ours_give_the_flipped_result_of_a_flipped_sequence(name):
    model, x = small(name), tokens(2, 33)
    close(model(x.flip(1)).flip(1), model(x))


def test_linear_attention_does_not_know_the_order_of_tokens_and_the_others_do():
    x, order = tokens(1, 20), torch.randperm(20)
    for name in ("retnet", "mamba", "rwkv", "mlstm", "ttt", "linear", "gated"):
        model = small(name)
        same = torch.allclose(model(x[:, order]), model(x)[:, order])
        assert same == (name == "linear"), name
