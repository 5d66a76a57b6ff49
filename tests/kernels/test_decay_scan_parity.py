"""The op alone against figures of the published reference implementations, all float64."""

import math

import pytest
import torch
from torch import Tensor

from linzoo.kernels import decay_scan

from ..parity_fill import assert_matches, figures, random

RECORD = figures("decay_scan")
BACKENDS = ("eager", "reference")
RETNET = ("retnet_d64_h2_T160", "retnet_d128_h4_T128", "retnet_d64_h2_T40")


def lightnet(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Keys softmaxed over the positions so far; (B, H, N, D) in and out."""
    q, k, v = (x.transpose(1, 2) for x in (torch.nn.functional.silu(q), k, v))
    z = torch.logcumsumexp(k, 1)
    log_decay = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1] - z[:, 1:]], 1)
    return decay_scan(q, (k - z).exp(), v, log_decay, backend=backend)[0].transpose(1, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "factor"), [("lightnet_causal", 1), ("lightnet_causal_large_keys", 40)])
def test_causal_lightnet_and_its_gradients_are_the_recorded_ones(name, factor, backend):
    figure = RECORD[name]
    tensors = {x: random(figure["out"]["shape"], seed) for x, seed in zip("qkv", (1, 2, 3), strict=True)}
    tensors["k"] = tensors["k"] * factor
    tensors = {x: t.requires_grad_() for x, t in tensors.items()}
    o = lightnet(**tensors, backend=backend)
    assert_matches(o, figure["out"], 1e-9, name)
    grads = torch.autograd.grad((o * random(o.shape, 7)).sum(), list(tensors.values()))
    for x, grad in zip(tensors, grads, strict=True):
        assert_matches(grad, figure["grads"][x], 1e-9, f"{name} d{x}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_exclusive_scans_with_one_bonus_are_the_bidirectional_wkv_of_rwkv6(backend):
    config = RECORD["wkv6_bidirectional_core"]["config"]
    shape = (config["B"], config["T"], config["H"], config["C"] // config["H"])
    flat = (config["B"], config["T"], config["C"])
    r, k, v, w = (random(flat, config["seeds"][x]).view(shape) for x in ("r", "k", "v", "w_raw"))
    u = random(config["u_shape"], config["seeds"]["u"])
    options = {"exclusive": True, "backend": backend}
    forward, _ = decay_scan(r, k, v, -w.exp(), bonus=u, **options)
    back, _ = decay_scan(r, k, v, -w.exp(), reverse=True, **options)
    assert_matches((forward + back).view(flat), RECORD["wkv6_bidirectional_core"]["output"], 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", RETNET)
def test_symmetric_blocks_are_the_retnet_of_lion(name, backend):
    config, core = RECORD[name]["config"], RECORD[name]["core_operator"]
    heads = config["n_head"]
    _, _, tokens, value_dim = core["output"]["shape"]
    key_dim = config["d_model"] // heads
    sizes = {"q": key_dim, "k": key_dim, "v": value_dim}
    q, k, v = (random((1, heads, tokens, d), core[f"{x}_seed"]).transpose(1, 2) for x, d in sizes.items())
    log_decay = torch.tensor([math.log1p(-(2.0 ** (-5 - h))) for h in range(heads)], dtype=torch.float64)
    options = {"symmetric_block": config["chunk"], "scale": key_dim**-0.5, "backend": backend}
    o, _ = decay_scan(q, k, v, log_decay, **options)
    assert_matches(o.transpose(1, 2), core["output"], 1e-9)
