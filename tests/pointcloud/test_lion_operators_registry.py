"""Operators by name, their arguments, first weights, gradients and precisions."""

import pytest
import torch
from torch import nn

from linzoo.pointcloud.lion.operators import OPERATORS, Operator, make_operator, register_operator

from .lion_operator_cases import CHANNELS, WORDS, small, tokens

EFFECTS = {  # a word of each operator, changed from what the small block has
    "retnet": {"heads": 4, "expand_v": 1, "ffn_ratio": 2, "block": 8},
    "mamba": {"state": 3, "expand": 1, "taps": 3},
    "rwkv": {"heads": 4, "ffn_ratio": 2, "mix_rank": 3, "decay_rank": 3, "init_values": 0.1},
    "mlstm": {"heads": 2, "expand": 1, "taps": 3, "block_width": 8},
    "ttt": {"heads": 4, "ffn_ratio": 1, "size": 8},
    "linear": {"heads": 4, "feature": "relu", "ffn_ratio": 2},
    "gated": {"heads": 4, "rank": 3, "ffn_ratio": 2},
}
CHANGES = [(name, word) for name, words in EFFECTS.items() for word in words]


@pytest.mark.parametrize(("name", "word"), CHANGES)
def test_every_argument_has_an_effect(name, word):
    x, word = tokens(1, 40), {word: EFFECTS[name][word]}
    if "init_values" in word:  # seen before weights are filled
        model = make_operator(name, CHANNELS, 0, 4, **WORDS[name] | word)
        assert (model.gamma1 == 0.1).all() and (model.gamma2 == 0.1).all()
        return
    one, other = small(name), small(name, **word)
    assert not torch.allclose(one(x), other(x), rtol=1e-6), word


def test_the_names_are_these_and_xlstm_is_mlstm():
    assert set(OPERATORS) == {*WORDS, "xlstm"}
    assert OPERATORS["xlstm"] is OPERATORS["mlstm"]
    assert set(EFFECTS) == set(WORDS)


@pytest.mark.parametrize(("name", "near"), [("retnt", "retnet"), ("RWKV6", None), ("xlstn", "xlstm")])
def test_a_wrong_name_names_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"operator must be one of .*, got '{name}'") as error:
        make_operator(name, 16, 0, 1)
    assert ("did you mean" in str(error.value)) == (near is not None)
    assert near is None or repr(near) in str(error.value).rsplit("did you mean", 1)[1]


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("retnet", {"heads": 3}, "heads must be >= 1 and divide channels = 16, got 3"),
        ("retnet", {"block": 0}, "block must be >= 1 token, got 0"),
        ("rwkv", {"heads": 0}, "heads must be >= 1 and divide channels = 16, got 0"),
        ("mlstm", {"heads": 3}, "heads must be >= 1 and divide expand . channels = 32, got 3"),
        ("mlstm", {"block_width": 5}, "block_width must be >= 1 and divide"),
        ("ttt", {"heads": 16}, "heads must leave an even width of channels = 16, got 16"),
        ("ttt", {"size": 0}, "size must be >= 1 token, got 0"),
        ("linear", {"feature": "elu"}, "feature must be one of .*, got 'elu'"),
        ("gated", {"drop_path": 1.0}, r"drop_path must be a probability in \[0, 1\), got 1.0"),
    ],
)
def test_bad_words_are_named(name, words, text):
    with pytest.raises(ValueError, match=text):
        make_operator(name, 16, 0, 4, **words)


@pytest.mark.parametrize("name", WORDS)
def test_unknown_words_and_misplaced_layers_are_refused(name):
    with pytest.raises(TypeError, match="head_count"):
        make_operator(name, 16, 0, 4, head_count=2)
    with pytest.raises(ValueError, match=r"layer_id must be in 0 .. n_layer - 1 = 3, got 4"):
        make_operator(name, 16, 4, 4)
    with pytest.raises(ValueError, match="channels must be >= 1, got 0"):
        make_operator(name, 0, 0, 4)


def test_inputs_of_another_shape_are_refused():
    model = small("linear", torch.float32)
    x, cu = torch.zeros(2, 5, CHANNELS), torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"x must be \(G, T, C\) with C = 16, got \(2, 5, 8\)"):
        model(x[..., :8])
    with pytest.raises(ValueError, match=r"x must be \(1, N, C\) with cu_seqlens, got \(2, 5, 16\)"):
        model(x, cu)
    with pytest.raises(ValueError, match=r"cu_seqlens must be int32 offsets .* got \(2,\) torch.int64"):
        model(x[:1], cu.long())


def test_a_user_registers_an_operator_of_their_own(monkeypatch):
    monkeypatch.setattr("linzoo.pointcloud.lion.operators.registry.OPERATORS", known := dict(OPERATORS))

    @register_operator("mean")
    class Mean(Operator):
        """x + a times the mean of its sequence."""

        def __init__(self, channels, *, layer_id, n_layer, drop_path, a=1.0):
            super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
            self.a = a

        def mix(self, x, cu_seqlens):
            return x + self.a * x.mean(1, keepdim=True)

    assert known["mean"] is Mean
    model = make_operator("mean", 3, 0, 2, a=2.0)
    assert torch.equal(model(torch.ones(1, 4, 3)), torch.full((1, 4, 3), 3.0))
    with pytest.raises(ValueError, match="name must be new, got 'mean', which is Mean"):
        register_operator("mean")(Mean)
    with pytest.raises(TypeError, match=r"'f' must be a subclass of nn.Module"):
        register_operator("f")(lambda x: x)
    with pytest.raises(NotImplementedError, match="Operator must define mix"):
        Operator(3)(torch.ones(1, 4, 3))


@pytest.mark.parametrize("name", WORDS)
def test_every_parameter_is_one_of_the_modules_and_gets_a_gradient(name):
    """Upstream trained leaf modules' parameters only: A_log, D, mixing vectors and W1 stayed as drawn."""
    model = small(name)
    model(tokens(2, 40)).square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", WORDS)
def test_first_weights_give_finite_outputs_and_gradients(name):
    model = make_operator(name, 32, 1, 4)
    x = torch.randn(2, 70, 32, requires_grad=True)
    y = model(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_first_weights_of_rwkv_go_with_the_depth_and_ln0_is_in_the_first_block_only():
    first, last = (make_operator("rwkv", 8, i, 5, heads=2) for i in (0, 4))
    assert first.ln0 is not None and last.ln0 is None
    channel = torch.arange(8) / 8
    for model, down, up in ((first, 1.0, 0.0), (last, 0.2, 1.0)):
        att = model.att
        torch.testing.assert_close(att.time_maa_k.flatten(), 1 - channel**down)
        torch.testing.assert_close(att.time_maa_v.flatten(), 1 - channel**down - 0.3 * up)
        torch.testing.assert_close(att.time_maa_r.flatten(), 1 - channel ** (0.5 * down))
        torch.testing.assert_close(model.ffn.spatial_mix_k.flatten(), channel**down)
        speed = -6 + 5 * (torch.arange(8) / 7) ** (0.7 + 1.3 * up)
        torch.testing.assert_close(att.time_decay.flatten(), speed)
        zigzag = torch.tensor([0, 1, -1] * 3)[:8] * 0.1
        torch.testing.assert_close(att.time_faaaa.flatten(), up * (1 - torch.arange(8) / 7) + zigzag)
        assert (model.gamma1 == 1e-5).all() and (model.gamma2 == 1e-5).all()


def test_first_weights_of_mamba_are_s4d_real_with_steps_between_a_thousandth_and_a_tenth():
    mixer = make_operator("mamba", 64, 0, 1).mamba
    for A_log, dt_proj in ((mixer.A_log, mixer.dt_proj), (mixer.A_b_log, mixer.dt_proj_b)):
        torch.testing.assert_close(A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
        steps = nn.functional.softplus(dt_proj.bias)
        assert 1e-3 <= steps.min() < 5e-3 and 0.05 < steps.max() <= 0.1
    assert mixer.A_log.data_ptr() != mixer.A_b_log.data_ptr()


@pytest.mark.parametrize("name", WORDS)
def test_autocast_and_float32_agree_with_float64(name):
    x, exact = tokens(1, 50), small(name)
    wanted = exact(x).float()
    model = small(name, torch.float32)
    torch.testing.assert_close(model(x.float()), wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x.float())
    # branches of the fill are as large as x
    assert (low.float() - wanted).norm() / wanted.norm() < 0.05


@pytest.mark.parametrize("name", WORDS)
def test_compilers_see_one_graph(name):
    torch._dynamo.reset()
    model, x = small(name, torch.float32), tokens(1, 30, torch.float32)
    cu = torch.tensor([0, 11, 11, 30], dtype=torch.int32)
    fast = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(fast(x, cu), model(x, cu), rtol=1e-4, atol=1e-4)
