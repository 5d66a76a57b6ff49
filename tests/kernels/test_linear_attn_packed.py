"""Packed rows in the eager backend: lengths on both sides of every tile size, in any memory layout."""

import pytest
import torch

from linzoo.kernels import linear_attn
from linzoo.kernels.linear_attn.blocks import TILE_TOKENS

AROUND = [129, 8, 1, 16, 9, 0, 17, 33, 7, 65]  # tiles are of 8, 16, ... 128 tokens
LENGTHS = {"longest": [TILE_TOKENS[-1]] * 2, "longer": [150] * 2, "empty first": [0, 0, 9, 140], "one": [5]}
CASES = [(layout, AROUND) for layout in ("contiguous", "fused", "padded", "shared key")]
CASES += [("fused", lengths) for lengths in LENGTHS.values()]


def packed_qkv(layout: str, tokens: int, heads: int = 3, width: int = 8) -> list[torch.Tensor]:
    wide = width + (layout == "padded")  # strides that are no multiple of the width
    qkv = torch.randn(tokens, 3, heads, wide, dtype=torch.float64)[..., :width].unsqueeze(0)
    q, k, v = qkv.unbind(2)
    if layout == "contiguous":
        q, k, v = (x.contiguous() for x in (q, k, v))
    if layout == "shared key":
        k = k[:, :, :1].expand_as(k)
    return [x.requires_grad_() for x in (q.detach(), k.detach(), v.detach())]


@pytest.mark.parametrize(
    ("layout", "lengths"), CASES, ids=["contiguous", "fused", "padded", "shared key", *LENGTHS]
)
@pytest.mark.parametrize(
    ("feature", "norm", "extras"),
    [("relu", "sum", ()), ("elu1", "sum", ("mask", "weight")), ("identity", "sub", ()), ("elu1", "mag", ())],
    ids=["relu", "elu1 masked and weighted", "sub", "mag"],
)
def test_packed_rows_equal_the_reference_with_every_gradient(layout, lengths, feature, norm, extras):
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    q, k, v = packed_qkv(layout, int(cu[-1]))
    given = {"q": q, "k": k, "v": v}
    if "weight" in extras:
        given["weight"] = torch.rand(1, len(q[0]), 3, dtype=torch.float64, requires_grad=True)
    words = {"feature": feature, "norm": norm, "eps": 1e-3, "cu_seqlens": cu}
    if "mask" in extras:
        words["mask"] = torch.rand(1, len(q[0])) < 0.8
    results = []
    for backend in ("eager", "reference"):
        y = linear_attn(**given, **words, backend=backend)
        grads = torch.autograd.grad((y * y.detach().cos()).sum(), list(given.values()))
        results.append([y.detach(), *grads])
    for name, a, b in zip(("y", *given), *results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * b.abs().max().item(), msg=name)


def test_what_a_mask_drops_may_hold_anything():
    q, k, v = packed_qkv("fused", 40)
    cu, mask = torch.tensor([0, 25, 40], dtype=torch.int32), torch.rand(1, 40) < 0.7
    words = {"feature": "elu1", "cu_seqlens": cu, "mask": mask}
    weight = torch.rand(1, 40, 3, dtype=torch.float64)
    want = linear_attn(q, k, v, weight=weight, **words)
    with torch.no_grad():
        for x in (k, v, weight):
            x[~mask] = float("nan")
    assert torch.equal(linear_attn(q, k, v, weight=weight, **words), want)
