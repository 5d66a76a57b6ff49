"""ScatterFormer's backbone on dense arrays, from the formulas: convolutions of torch, windows in loops.

Letters: x (B, Z, Y, X, C) with zeros where no voxel is, on (B, Z, Y, X) bool where one is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linzoo.pointcloud.scatterformer import ScatterFormer
from linzoo.pointcloud.voxels import Voxels


def dense(voxels: Voxels) -> tuple[Tensor, Tensor]:
    at, shape = tuple(voxels.coords.T), (voxels.batch_size, *voxels.shape)
    x = torch.zeros(*shape, voxels.features.shape[1], dtype=voxels.features.dtype).index_put(
        at, voxels.features
    )
    on = torch.zeros(shape, dtype=torch.bool)
    on[at] = True
    return x, on


def convolved(x: Tensor, weight: Tensor, bias, stride=1, padding=0) -> Tensor:
    """weight [out, kz, ky, kx, in], or depthwise [kz, ky, kx, C]."""
    depthwise = weight.dim() == 4
    kernel = weight.permute(3, 0, 1, 2).unsqueeze(1) if depthwise else weight.permute(0, 4, 1, 2, 3)
    groups = weight.shape[3] if depthwise else 1
    moved = x.permute(0, 4, 1, 2, 3)
    return F.conv3d(moved, kernel, bias, stride, padding, groups=groups).permute(0, 2, 3, 4, 1)


def submanifold(conv: nn.Module, x: Tensor, on: Tensor) -> Tensor:
    padding = tuple(k // 2 for k in conv.kernel_size)
    return convolved(x, conv.weight, getattr(conv, "bias", None), 1, padding) * on.unsqueeze(-1)


def strided(conv: nn.Module, x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    ones = torch.ones(1, *conv.kernel_size, 1, dtype=x.dtype)
    touched = convolved(on.unsqueeze(-1).to(x.dtype), ones, None, conv.stride, conv.padding)[..., 0] > 0
    return convolved(x, conv.weight, conv.bias, conv.stride, conv.padding) * touched.unsqueeze(-1), touched


def on_rows(module: nn.Module, x: Tensor, on: Tensor) -> Tensor:
    """A module of rows, such as a batch norm, on the voxels that exist."""
    rows = module(x[on])
    return torch.zeros(*x.shape[:-1], rows.shape[1], dtype=x.dtype).index_put((on,), rows)


def attention(sla: nn.Module, x: Tensor, on: Tensor, window: int) -> Tensor:
    """Every window by its N x N matrix."""
    y = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for row in range(0, x.shape[2], window):
            for column in range(0, x.shape[3], window):
                place = (b, slice(None), slice(row, row + window), slice(column, column + window))
                inside = on[place]
                tokens = x[place][inside]
                q, k, v = sla.qkv(tokens).unflatten(1, (3, sla.heads, -1)).permute(1, 2, 0, 3)
                scores = q.relu() @ k.relu().mT
                read = scores @ v / (scores.sum(2, keepdim=True) + 1e-6)
                here = torch.zeros_like(x[place])
                here[inside] = sla.proj(read.transpose(0, 1).flatten(1))
                y[place] = here
    return y


def window_layer(layer: nn.Module, x: Tensor, on: Tensor) -> Tensor:
    for norm, sla, ffn in zip(layer.norm_layers, layer.attn_layers, layer.cffn_layers, strict=True):
        x = x + attention(sla, on_rows(norm, x, on), on, layer.window)
        x = on_rows(ffn.bn, x, on)
        k, h, w, last = x.chunk(4, -1)
        parts = [submanifold(conv, g, on) for conv, g in ((ffn.conv_k, k), (ffn.conv_h, h), (ffn.conv_w, w))]
        x = x + torch.cat([*parts, last], -1)
        x = x + on_rows(lambda rows, ffn=ffn: ffn.fc2(ffn.fc1(ffn.bn2(rows)).relu()), x, on)
    return x


def pillars(pool: nn.Module, x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """(L, C) and (L, 3) rows (b, y, x), by torch's own attention over columns padded to the grid's height."""
    channels = x.shape[-1]
    theirs = nn.MultiheadAttention(channels, pool.self_attn.heads, batch_first=True).to(x.dtype)
    ours = pool.self_attn
    theirs.in_proj_weight, theirs.in_proj_bias = ours.in_proj_weight, ours.in_proj_bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out_proj.weight, ours.out_proj.bias
    columns, there = x.transpose(1, 3).transpose(1, 2), on.permute(0, 2, 3, 1)  # (B, Y, X, Z, .)
    cells = there.any(3).nonzero()
    slots, there = columns[tuple(cells.T)], there[tuple(cells.T)]
    query = slots.masked_fill(~there.unsqueeze(2), -torch.inf).amax(1, keepdim=True)
    keys = slots + pool.pos_embedding.weight[: slots.shape[1]]
    read = theirs(query, keys, slots, key_padding_mask=~there)[0]
    return pool.norm(query + read)[:, 0], cells


def backbone(model: ScatterFormer, voxels: Voxels) -> tuple[Tensor, Tensor]:
    x, on = dense(voxels)
    x, on = F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1)), F.pad(on, (0, 0, 0, 0, 0, 1))  # one cell higher
    embed, *residuals, halve = model.cpe
    x = on_rows(embed[1], submanifold(embed[0], x, on), on).relu()
    for block in residuals:
        inner = on_rows(block.bn1, submanifold(block.conv1, x, on), on).relu()
        x = (x + on_rows(block.bn2, submanifold(block.conv2, inner, on), on)).relu()
    x, on = strided(halve[0], x, on)
    x = on_rows(halve[1], x, on).relu()
    layer, norm, down = model.stage1
    x, on = strided(down, on_rows(norm, window_layer(layer, x, on), on), on)
    layer, norm = model.stage2
    return pillars(model.app, on_rows(norm, window_layer(layer, x, on), on), on)
