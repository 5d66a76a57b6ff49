"""What ``linzoo bench gpu`` times: every op at the sizes of its users, with its rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

# batch, heads, tokens, width: RALA at 448 px, LinFusion at 1024 px and 4096 px, FLUX' width at 2048 px
LINEAR = ((8, 8, 3136, 32), (1, 8, 16384, 40), (1, 10, 65536, 64), (1, 24, 16384, 128))
# heads, grid height and width, text tokens, width
LOCAL = ((4, 64, 64, 128, 64), (24, 64, 64, 512, 128), (24, 128, 128, 512, 128))
DECAY = (4, 4096, 8, 64)  # rows, tokens, heads, width
SCAN = (4, 4096, 256, 16)  # rows, tokens, channels, states
VOXELS = 60_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size. ``variants`` are calls without arguments that give one tensor; ``inputs`` need gradients.

    bytes_moved: the least that a forward pass reads and writes, 0 where it is not counted.
    """

    what: str
    variants: Mapping[str, Callable[[], Any]]
    inputs: tuple
    bytes_moved: int = 0


def linear(dtype: Any, compiled: bool) -> Iterator[Case]:
    import torch

    from ..kernels import linear_attn
    from . import kernel_rivals

    for batch, heads, tokens, width in LINEAR:
        qkv = torch.randn(batch, tokens, 3 * heads * width, device="cuda", dtype=dtype, requires_grad=True)

        def ours(backend: str, qkv=qkv, heads=heads):
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
            return linear_attn(q, k, v, feature="elu1", backend=backend)

        variants = {"triton": partial(ours, "triton"), "eager": partial(ours, "eager")}
        variants["upstream"] = partial(kernel_rivals.upstream, qkv, heads)
        if compiled:
            variants["upstream compiled"] = partial(torch.compile(kernel_rivals.upstream), qkv, heads)
        variants["softmax"] = partial(_softmax, qkv, heads)
        what = f"B{batch} H{heads} N{tokens} D{width} {_name(dtype)}"
        size = 4 * batch * heads * tokens * width * qkv.element_size()
        yield Case(what=what, variants=variants, inputs=(qkv,), bytes_moved=size)


def windows(dtype: Any, compiled: bool) -> Iterator[Case]:
    """ScatterFormer's attention: windows of 1 to about 300 voxels, mean 40."""
    import torch

    from ..kernels import linear_attn
    from ..kernels.segments import lengths_to_cu_seqlens

    lengths = (torch.rand(1500, generator=torch.Generator().manual_seed(0)).log().neg() * 40).long().clamp(1)
    cu = lengths_to_cu_seqlens(lengths).cuda()
    total = int(cu[-1])
    q, k, v = (torch.randn(1, total, 4, 32, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    call = partial(linear_attn, q, k, v, feature="relu", eps_on="sum", cu_seqlens=cu)
    variants = {name: partial(call, backend=name) for name in ("triton", "eager")}
    what = f"{len(lengths)} windows, {total} voxels, H4 D32 {_name(dtype)}"
    yield Case(what=what, variants=variants, inputs=(q, k, v), bytes_moved=4 * q.nbytes)


def local(dtype: Any, compiled: bool) -> Iterator[Case]:
    import torch

    from ..kernels import local_attn

    for heads, height, width, text, dim in LOCAL:
        tokens = text + height * width
        q, k, v = (
            torch.randn(1, tokens, heads, dim, device="cuda", dtype=dtype, requires_grad=True)
            for _ in range(3)
        )

        def ours(backend: str, q=q, k=k, v=v, grid=(height, width), text=text):
            return local_attn(q, k, v, grid=grid, radius=8, n_global=text, backend=backend)[0]

        variants: dict[str, Callable[[], Any]] = {n: partial(ours, n) for n in ("triton", "eager")}
        variants["softmax"] = partial(_sdpa, q, k, v)
        if compiled:
            variants["flex compiled"] = _flex(q, k, v, width, text)
        what = f"H{heads} {height}x{width} text {text} D{dim} radius 8 {_name(dtype)}"
        yield Case(what=what, variants=variants, inputs=(q, k, v))


def decay(dtype: Any, compiled: bool) -> Iterator[Case]:
    import torch

    from ..kernels import decay_scan

    rows, tokens, heads, width = DECAY
    q, k, v = (
        torch.randn(rows, tokens, heads, width, device="cuda", dtype=dtype, requires_grad=True)
        for _ in range(3)
    )
    constant = torch.log1p(-(2.0 ** -(5 + torch.arange(heads, device="cuda"))))
    gates = -torch.rand(rows, tokens, heads, width, device="cuda") * 0.1
    for name, log_decay, words in (
        ("constant", constant, {}),
        ("symmetric blocks of 64", constant, {"symmetric_block": 64}),
        ("per token", gates[..., 0].contiguous(), {}),
        ("per channel", gates, {}),
        ("per channel, 30 times stronger", 30 * gates, {}),
    ):

        def ours(backend: str, log_decay=log_decay, words=words):
            return decay_scan(q, k, v, log_decay, scale=width**-0.5, backend=backend, **words)[0]

        variants = {backend: partial(ours, backend) for backend in ("triton", "eager")}
        what = f"{name}, B{rows} N{tokens} H{heads} D{width} {_name(dtype)}"
        yield Case(what=what, variants=variants, inputs=(q, k, v), bytes_moved=4 * q.nbytes)


def selective(dtype: Any, compiled: bool) -> Iterator[Case]:
    import torch

    from ..kernels import selective_scan

    rows, tokens, channels, states = SCAN

    def draw(*shape: int):
        return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)

    u, B, C = draw(rows, tokens, channels), draw(rows, tokens, states), draw(rows, tokens, states)
    delta = torch.rand(rows, tokens, channels, device="cuda", dtype=dtype).mul(0.1).requires_grad_()
    A = -torch.arange(1.0, states + 1, device="cuda").repeat(channels, 1)

    def ours(backend: str):
        return selective_scan(u, delta, A, B, C, backend=backend)[0]

    variants = {backend: partial(ours, backend) for backend in ("triton", "eager")}
    what = f"B{rows} N{tokens} C{channels} S{states} {_name(dtype)}"
    yield Case(what=what, variants=variants, inputs=(u, delta, B, C), bytes_moved=3 * u.nbytes)


def sparse(dtype: Any, compiled: bool) -> Iterator[Case]:
    import torch

    from ..kernels import depthwise_sparse_conv, segment_sum, sparse_conv, submanifold_pairs

    coords, shape = _surface(VOXELS)
    pairs = submanifold_pairs(coords, shape)
    each = len(pairs.inputs) / len(coords)
    for channels in (64, 128):
        x = torch.randn(len(coords), channels, device="cuda", dtype=dtype, requires_grad=True)
        full = torch.randn(channels, 3, 3, 3, channels, device="cuda", dtype=dtype).div_(channels**0.5)
        thin = torch.randn(3, 3, 3, channels, device="cuda", dtype=dtype)
        full.requires_grad_(), thin.requires_grad_()
        what = f"{len(coords)} voxels, {each:.1f} pairs a voxel, {channels} channels, {_name(dtype)}"
        for kind, op, weight in (("", sparse_conv, full), ("depthwise ", depthwise_sparse_conv, thin)):
            variants = {b: partial(op, x, weight, pairs, backend=b) for b in ("triton", "eager")}
            yield Case(what=f"{kind}3x3x3, {what}", variants=variants, inputs=(x, weight))
        index = torch.randint(0, len(coords) // 4, (len(coords),), device="cuda")
        variants = {
            b: partial(segment_sum, x, index, len(coords) // 4, backend=b) for b in ("triton", "eager")
        }
        yield Case(what=f"segment sum, {what}", variants=variants, inputs=(x,))


def _surface(count: int) -> tuple[Any, tuple[int, int, int]]:
    """About ``count`` voxels on rough ground: coords (M, 4) on the GPU, and the grid's shape."""
    import torch

    side = int(count**0.5)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    z = (8 + 3 * torch.sin(x / 9) + 3 * torch.cos(y / 7)).long()
    coords = torch.stack([torch.zeros_like(z), z, y, x], -1).flatten(0, 1)
    return coords.cuda(), (32, side, side)


def _softmax(qkv: Any, heads: int) -> Any:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(*qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4))


def _sdpa(q: Any, k: Any, v: Any) -> Any:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))


def _flex(q: Any, k: Any, v: Any, width: int, text: int) -> Callable[[], Any]:
    """FlexAttention with CLEAR's mask, tokens in raster order."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b, h, i, j):
        dy = (i - text) // width - (j - text) // width
        dx = (i - text) % width - (j - text) % width
        return (i < text) | (j < text) | (dy * dy + dx * dx < 64)

    mask = torch.compile(create_block_mask)(seen, None, None, q.shape[1], q.shape[1], device="cuda")
    call = torch.compile(flex_attention, dynamic=False)
    return lambda: call(*(t.transpose(1, 2) for t in (q, k, v)), block_mask=mask)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


CASES = {
    "linear": linear,
    "windows": windows,
    "local": local,
    "decay": decay,
    "selective": selective,
    "sparse": sparse,
}
