"""What ``linzoo bench kernels`` times: linear attention (elu1, sum), ours and its rivals.

Every function maps a fused (B, N, 3 C) projection and a number of heads to (B, N, C), as a model's mixer
does.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import linear_attn

SDPA_QUERIES = 2048  # above 2x this many tokens, softmax is timed on this many queries and scaled up


def ours(qkv: Tensor, heads: int) -> Tensor:
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
    return linear_attn(q, k, v, feature="elu1", backend="eager").flatten(2)


def _formula(qkv: Tensor, heads: int, phi: Callable[[Tensor], Tensor]) -> Tensor:
    """The eager formula that the papers' code shares: heads forward, mean of keys, product by product."""
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k = phi(q), phi(k)
    inverse = 1 / (q @ k.mean(dim=-2, keepdim=True).transpose(-2, -1) + 1e-6)
    state = (k.transpose(-2, -1) * tokens**-0.5) @ (v * tokens**-0.5)
    return (q @ state * inverse).transpose(1, 2).reshape(batch, tokens, -1)


def upstream(qkv: Tensor, heads: int) -> Tensor:
    return _formula(qkv, heads, lambda x: F.elu(x) + 1)


def rewrite(qkv: Tensor, heads: int) -> Tensor:
    """Upstream's formula with elu(x) + 1 as exp(min(x, 0)) + max(x, 0)."""
    return _formula(qkv, heads, lambda x: x.clamp(max=0).exp() + x.clamp(min=0))


def compiled_rewrite() -> Callable[[Tensor, int], Tensor]:
    return torch.compile(rewrite, dynamic=False)


def softmax(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention; of a long row only the first SDPA_QUERIES queries (the caller scales the time)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q[:, :, : softmax_queries(qkv.shape[1])], k, v)


def softmax_queries(tokens: int) -> int:
    return tokens if tokens <= 2 * SDPA_QUERIES else SDPA_QUERIES


def with_backward(run: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """A training step's share: forward, and the gradient of the projection."""

    def step(qkv: Tensor, heads: int) -> Tensor:
        leaf = qkv.detach().requires_grad_()
        y = run(leaf, heads)
        return torch.autograd.grad(y, leaf, y.detach())[0]

    return step


def allocated_bytes(run: Callable[[], object]) -> int:
    """Bytes of every allocation made while ``run`` runs, freed or not: a measure without noise."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = recorded.profiler.kineto_results.events()
    return sum(max(event.nbytes(), 0) for event in events if event.name() == "[memory]")


def peaks(seconds: Callable[[Callable[[], object]], float]) -> dict[str, float]:
    """What one thread reaches here: matrix products in GFLOP/s, copies in GB/s, exp in Gelements/s."""
    a = torch.randn(1024, 1024)
    low = a.bfloat16()
    big, copy = torch.randn(1 << 24), torch.empty(1 << 24)
    small = torch.randn(1 << 16)
    out = torch.empty_like(small)
    return {
        "sgemm_gflops": 2 * 1024**3 / seconds(lambda: a @ a) / 1e9,
        "bf16_gemm_gflops": 2 * 1024**3 / seconds(lambda: low @ low) / 1e9,
        "copy_gbs": 2 * big.nbytes / seconds(lambda: copy.copy_(big)) / 1e9,
        "exp_gelems": 64 * len(small) / seconds(lambda: [torch.exp(small, out=out) for _ in range(64)]) / 1e9,
    }
