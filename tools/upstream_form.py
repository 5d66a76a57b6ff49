"""The order of operations of the authors' code on the weights of one of our models: the rival.

Written from the equations. RAVLT, MALA: (B, C, H, W) throughout, 1x1 convolutions, LayerNorm between
permutations with a copy each, elu + 1, rotary tables built by every stage in every forward, 1/N split over
keys and values, softmax attention with the N x N matrix, layer scales as products. NaLaFormer: the same, with
Linear between permutations for the 1x1s. L2ViT: (B, N, C) tokens between blocks, a transposition around every
convolution.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upstream_form(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from images to logits that computes what ``model`` does, as the authors' code orders it.

    Args:
        model: a RAVLT, MALA, NaLaFormer or L2ViT model as published (any sizes and weights), not folded, in
            eval mode. The function reads the model's parameters at every call.
    Raises: TypeError for another class or other mixers than the published ones.
    """
    from ..vision.l2vit import L2ViT
    from ..vision.pyramid import Pyramid

    if isinstance(model, L2ViT) and set(model.mixers) == {"alternate"}:
        return lambda x: _l2vit(model, x)
    if isinstance(model, Pyramid) and set(model.mixers) <= {*_ATTENTION}:
        linear_1x1 = any(name.startswith("nala") for name in model.mixers)
        return lambda x: _pyramid(model, x, _linear if linear_1x1 else _conv_1x1)
    raise TypeError(f"upstream_form: model must be one of the published families, got {type(model).__name__}")


# --- parts on (B, C, H, W)


def _conv_1x1(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def _depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)


def _layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return norm(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()


def _scaled(x: Tensor, scale: nn.Module) -> Tensor:
    gamma = getattr(scale, "gamma", None)
    return x if gamma is None else gamma.view(1, -1, 1, 1) * x


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) -> (B, heads, H * W, C / heads)."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def _tables(height: int, width: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    theta = (1.0 / 10000 ** torch.linspace(0, 1, head_dim // 4)).repeat_interleave(2).to(like)
    rows = torch.arange(height).to(like)[:, None] * theta
    columns = torch.arange(width).to(like)[:, None] * theta
    angle = torch.cat(
        (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), -1
    ).flatten(0, 1)
    return angle.sin(), angle.cos()


def _rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + turned * sin


# --- attentions on (B, heads, N, D), tables (N, D)


def _rala(q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    n, scale = q.shape[2], q.shape[3] ** -0.5
    q, k = F.elu(q) + 1, F.elu(k) + 1
    weight = (scale * q.mean(2, keepdim=True) @ k.mT).softmax(-1)
    k = k * weight.mT * n
    z = 1 / (q @ k.mean(2, keepdim=True).mT + 1e-6)
    q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    return q @ ((k.mT * n**-0.5) @ (v * n**-0.5)) * z


def _mala(q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    n, scale = q.shape[2], q.shape[3] ** -0.5
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = q @ k.mean(2, keepdim=True).mT * scale
    q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    split = (scale / n) ** 0.5
    return q @ ((k.mT * split) @ (v * split)) * (1 + 1 / (z + 1e-6)) - z * v.mean(2, keepdim=True)


def _nala(q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    n = q.shape[2]
    length = q.norm(dim=-1, keepdim=True)
    power = 3 * (0.5 + length.tanh())
    q = q / length
    q = torch.cat((q.relu() ** power, (-q).relu() ** power), -1)
    k = torch.cat(((k**3).relu(), (-(k**3)).relu()), -1)
    z = 1 / (q @ k.mean(2, keepdim=True).mT + 1e-6)
    q, k = (torch.cat([_rotate(half, sin, cos) for half in x.chunk(2, -1)], -1) for x in (q, k))
    return q @ ((k.mT * n**-0.5) @ (v * n**-0.5)) * z


def _softmax(q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    return (q * q.shape[3] ** -0.5 @ k.mT).softmax(-1) @ v


_ATTENTION = {"rala": _rala, "mala": _mala, "nala": _nala, "softmax": _softmax, "nala_softmax": _softmax}


# --- RAVLT, MALA, NaLaFormer


def _mixer(x: Tensor, mixer: nn.Module, name: str, tables: tuple[Tensor, Tensor], dense: Callable) -> Tensor:
    q, k, v, gate = dense(x, mixer.qkvg).chunk(4, 1)
    local = _depthwise(v, mixer.lepe)
    y = _ATTENTION[name](*(_heads(t, mixer.heads) for t in (q, k, v)), *tables)
    y = y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]) + local
    if name.startswith("nala"):
        return dense(_layer_norm(y, mixer.norm) * F.silu(gate), mixer.proj)
    return dense(y * gate, mixer.proj)


def _ffn(x: Tensor, ffn: nn.Module, dense: Callable) -> Tensor:
    x = F.gelu(dense(x, ffn.fc1))
    return dense(x + _depthwise(x, ffn.dwconv), ffn.fc2)


def _pyramid(model: nn.Module, x: Tensor, dense: Callable) -> Tensor:
    stem = model.stem
    for i in range(4):
        x = getattr(stem, f"norm{i}")(getattr(stem, f"conv{i}")(x))
        x = F.gelu(x) if i < 3 else x
    for name, stage in zip(model.mixers, model.stages, strict=True):
        if not isinstance(stage.downsample, nn.Identity):
            x = stage.downsample.norm(stage.downsample.conv(x))
        tables = _tables(*x.shape[2:], x.shape[1] // stage.blocks[0].attn.heads, x)
        for block in stage.blocks:
            x = x + _depthwise(x, block.pos1)
            x = x + _scaled(_mixer(_layer_norm(x, block.norm1), block.attn, name, tables, dense), block.ls1)
            if not isinstance(block.pos2, nn.Identity):
                x = x + _depthwise(x, block.pos2)
            x = x + _scaled(_ffn(_layer_norm(x, block.norm2), block.ffn, dense), block.ls2)
    x = F.silu(model.neck.norm(dense(x, model.neck.proj)))
    return _conv_1x1(F.adaptive_avg_pool2d(x, 1), model.head).flatten(1)


# --- L2ViT, on (B, N, C)


def _on_image(tokens: Tensor, size: tuple[int, int], call: Callable[[Tensor], Tensor]) -> Tensor:
    image = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *size)
    return call(image).flatten(2).transpose(1, 2)


def _window_attention(tokens: Tensor, size: tuple[int, int], attn: nn.Module) -> Tensor:
    (height, width), window = size, attn.window_size
    batch, dim = tokens.shape[0], tokens.shape[2]
    x = F.pad(tokens.view(batch, height, width, dim), (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.view(batch, rows, window, columns, window, dim).transpose(2, 3).reshape(-1, window * window, dim)
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
    x = (q * q.shape[3] ** -0.5 @ k.mT).softmax(-1) @ v
    x = attn.proj(x.transpose(1, 2).flatten(2)).view(batch, rows, columns, window, window, dim)
    x = x.transpose(2, 3).reshape(batch, rows * window, columns * window, dim)
    return x[:, :height, :width].reshape(batch, height * width, dim)


def _linear_attention(tokens: Tensor, attn: nn.Module) -> Tensor:
    q, k, v = attn.qkv(tokens).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = q.relu(), k.relu()
    z = (q @ k.sum(2, keepdim=True).mT).clamp(min=attn.bound)
    y = attn.temperature.view(-1, 1, 1) * (q @ (k.mT @ v)) / z
    return attn.proj(y.transpose(1, 2).flatten(2))


def _l2_block(x: Tensor, size: tuple[int, int], block: nn.Module) -> Tensor:
    def position(tokens: Tensor, conv: nn.Module) -> Tensor:
        return tokens + _on_image(tokens, size, lambda image: _depthwise(image, conv))

    x = position(x, block.pos1)
    if hasattr(block.attn, "window_size"):
        x = position(x + _window_attention(block.norm1(x), size, block.attn), block.pos2)
    else:
        x = x + _linear_attention(block.norm1(x), block.attn)
        lcm = block.lcm
        x = x + _on_image(
            block.norm_local(x),
            size,
            lambda image: _depthwise(lcm.norm(F.gelu(_depthwise(image, lcm.conv1))), lcm.conv2),
        )
    return x + block.ffn(block.norm2(x))


def _l2vit(model: nn.Module, x: Tensor) -> Tensor:
    stem = model.stem
    x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    x = stem.norm1(stem.conv1(F.relu(stem.norm0(stem.conv0(x)))))
    size = x.shape[2:]
    x = stem.token_norm(x.flatten(2).transpose(1, 2))
    for stage in model.stages:
        if not isinstance(stage.downsample, nn.Identity):
            x = stage.downsample.norm(x).transpose(1, 2).reshape(x.shape[0], -1, *size)
            x = stage.downsample.conv(F.pad(x, (0, size[1] % 2, 0, size[0] % 2)))
            size = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)
        for block in stage.blocks:
            x = _l2_block(x, size, block)
    return model.head(model.norm(x).mean(1))
