"""Host side of the Triton kernels: the four functions of the eager file, on tensors, without autograd."""

from typing import Any

import torch
from torch import Tensor

from .triton_plan import Launch, check, common, launch, processors, ready, strides_of
from .triton_readout import readout_backward_kernel, readout_forward_kernel
from .triton_reduce import accumulate_kernel, reduce_backward_kernel
from .triton_tiles import split_count


def _side_inputs(x: Tensor, weight: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
    wb, wn, wh = weight.stride() if weight is not None else (0, 0, 0)
    kb, kn = mask.stride() if mask is not None else (0, 0)
    mask = None if mask is None else mask.view(torch.uint8)
    return {"weight": weight, "mask": mask, "wb": wb, "wn": wn, "wh": wh, "kb": kb, "kn": kn}


def _tables(cos: Tensor | None, sin: Tensor | None) -> dict[str, Tensor | None]:
    if cos is None:
        return {"cos": None, "sin": None}
    return {"cos": cos.float().contiguous(), "sin": sin.float().contiguous()}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _token_tiles(
    cu: Tensor | None, rows: int, tokens: int, span: int
) -> tuple[int, dict[str, Tensor | None]]:
    """How many programs cover all tokens, ``span`` each, and for segments the row and start of each one.

    The list is as long as it can get (one partial tile a segment); what is left over names row ``rows`` and
    is skipped. So nothing is read back from the device.
    """
    if cu is None:
        return rows * _ceil(tokens, span), {"tile_row": None, "tile_start": None}
    tiles = (cu.diff() + (span - 1)) // span
    ends = tiles.cumsum(0)
    number = torch.arange(_ceil(tokens, span) + rows, device=cu.device)
    row = torch.searchsorted(ends, number, right=True)
    known = row.clamp(max=rows - 1)
    start = cu[known] + (number - (ends - tiles)[known]) * span
    return number.numel(), {"tile_row": row.int(), "tile_start": start.int()}


def _by_state(
    state_index: Tensor | None, cu: Tensor | None, rows: int
) -> tuple[Tensor | None, Tensor | None]:
    """(cu, order): tokens sorted by the state they read, as segments of that order."""
    if state_index is None:
        return cu, None
    sorted_index, order = state_index.sort(stable=True)
    bounds = torch.arange(rows + 1, device=state_index.device, dtype=sorted_index.dtype)
    return torch.searchsorted(sorted_index, bounds).int(), order.int()


def _accumulate(
    x: Tensor, v: Tensor, rows: int, cu: Tensor | None, feature: str, centered: bool, sides: dict[str, Any],
    inputs: dict[str, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Partial sums (n_split, rows, ...) of S, s, m and the token counts (float32)."""
    tokens, heads, key_dim, value_dim = x.shape[1], x.shape[2], x.shape[3], v.shape[3]
    strides, align = strides_of(x=x, v=v)
    tile, constants = common("accumulate", x, value_dim, feature, centered, align)
    cells = _ceil(key_dim, tile.keys) * _ceil(value_dim, tile.values)
    n_split = split_count(rows * heads * cells, tokens, key_dim, x.element_size(), processors(x.device))
    S, s, m, n = (
        x.new_empty((n_split, rows, *shape), dtype=torch.float32)
        for shape in ((heads, key_dim, value_dim), (heads, key_dim), (heads, value_dim), ())
    )
    args = {"x": x, "v": v, "cu": cu, "S_out": S, "s_out": s, "m_out": m, "n_out": n, "N": tokens, "R": rows}
    args |= {"n_split": n_split, **strides, **sides, **inputs}
    launch(x.device, Launch(accumulate_kernel, (rows * n_split, heads, cells), args, constants, tile))
    return S, s, m, n


def _merge_centered(S: Tensor, s: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred partial states about the common mean: sum S_i + n_i (mean_i - mean)(mean_i - mean)^T."""
    parts = n.clamp(min=1)[..., None, None]
    s_sum, m_sum = s.sum(0), m.sum(0)
    total = n.sum(0).clamp(min=1)[..., None, None]
    s_shift = (s / parts - s_sum / total) * n[..., None, None]
    m_shift = m / parts - m_sum / total
    return S.sum(0) + torch.einsum("irhd,irhe->rhde", s_shift, m_shift), s_sum, m_sum


def reduce_forward(
    k: Tensor, v: Tensor, weight: Tensor | None, mask: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    cu_seqlens: Tensor | None, feature: str, centered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(S, s, m, n) of rows or segments: float32 (R, H, D, E), (R, H, D), (R, H, E) and int64 (R,).

    Masked tokens are counted in float32: exact up to 2^24 of them in a row and split.
    """
    check("lin_reduce", k)
    k, v = ready(k), ready(v, k)
    rows = k.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    cu = None if cu_seqlens is None else cu_seqlens.int().contiguous()
    sides = _side_inputs(k, weight, mask)
    inputs = {"alpha": None, "zeta": None, "beta": None, "order": None, "n_rows": None, **_tables(cos, sin)}
    S, s, m, n_parts = _accumulate(k, v, rows, cu, feature, centered, sides, inputs)
    if S.shape[0] == 1:
        S, s, m = S[0], s[0], m[0]
    elif centered:
        S, s, m = _merge_centered(S, s, m, n_parts)
    else:
        S, s, m = S.sum(0), s.sum(0), m.sum(0)
    return S, s, m, n_parts.long().sum(0)


def reduce_backward(
    dS: Tensor, ds: Tensor, dm: Tensor, k: Tensor, v: Tensor, weight: Tensor | None, mask: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, cu_seqlens: Tensor | None, s: Tensor, m: Tensor, n: Tensor,
    feature: str, centered: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(dk, dv, dweight) in the dtypes of k, v and weight, contiguous; dweight is None without a weight."""
    check("lin_reduce", k)
    v_dtype = v.dtype
    k, v = ready(k), ready(v, k)
    batch, tokens, heads, key_dim = k.shape
    value_dim, rows = v.shape[-1], dS.shape[0]
    cu = None if cu_seqlens is None else cu_seqlens.int().contiguous()
    dk = k.new_empty((batch, tokens, heads, key_dim))
    dv = v.new_empty((batch, tokens, heads, value_dim))
    dweight = None if weight is None else weight.new_empty((batch, tokens, heads))
    strides, align = strides_of(x=k, v=v)
    tile, constants = common("reduce_backward", k, value_dim, feature, centered, align)
    count, tiles = _token_tiles(cu, rows, tokens, tile.tokens)
    args = {"dS": dS.contiguous(), "ds": ds.contiguous(), "dm": dm.contiguous(), "k": k, "v": v, "cu": cu}
    args |= {"s": s.contiguous(), "m": m.contiguous(), "n_rows": n, "N": tokens, "R": rows}
    args |= {"dk": dk, "dv": dv, "dweight": dweight, **tiles, **strides, **_tables(cos, sin)}
    args |= _side_inputs(k, weight, mask)
    launch(k.device, Launch(reduce_backward_kernel, (count, heads), args, constants, tile))
    return dk, dv.to(v_dtype), dweight


def _readout_inputs(
    S: Tensor, s: Tensor, m: Tensor, n: Tensor, tau: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    cu: Tensor | None, order: Tensor | None, eps: float, scale: float, cmin: float,
) -> dict[str, Any]:  # fmt: skip
    tau = None if tau is None else tau.float().contiguous()
    state = {
        "S": S.contiguous(),
        "s": s.contiguous(),
        "m": m.contiguous(),
        "n_rows": n.contiguous(),
        "tau": tau,
    }
    numbers = {"eps": float(eps), "scale": float(scale), "cmin": float(cmin or 0.0), "R": S.shape[0]}
    return {**state, **numbers, "cu": cu, "order": order, **_tables(cos, sin)}


def readout_forward(
    q: Tensor, S: Tensor, s: Tensor, m: Tensor, n: Tensor, tau: Tensor | None, cos: Tensor | None,
    sin: Tensor | None, cu_seqlens: Tensor | None, state_index: Tensor | None, feature: str, norm: str,
    eps: float, eps_on: str, scale: float, cmin: float, centered: bool,
) -> Tensor:  # fmt: skip
    """y (B, N, H, E) in q's dtype, contiguous."""
    check("lin_readout", q)
    q = ready(q)
    batch, tokens, heads, _ = q.shape
    rows, value_dim = S.shape[0], S.shape[-1]
    cu = None if cu_seqlens is None else cu_seqlens.int().contiguous()
    cu, order = _by_state(state_index, cu, rows)
    out = q.new_empty((batch, tokens, heads, value_dim))
    strides, align = strides_of(x=q)
    tile, constants = common("readout_forward", q, value_dim, feature, centered, align)
    constants |= {"NORM": norm, "EPS_MEAN": eps_on == "mean", "STEPS": tile.steps}
    count, tiles = _token_tiles(cu, rows, tokens, tile.tokens * tile.steps)
    args = {"q": q, "out": out, "N": tokens, **strides, **tiles}
    args |= _readout_inputs(S, s, m, n, tau, cos, sin, cu, order, eps, scale, cmin)
    grid = (count, heads, _ceil(value_dim, tile.values))
    launch(q.device, Launch(readout_forward_kernel, grid, args, constants, tile))
    return out


def readout_backward(
    dy: Tensor, q: Tensor, S: Tensor, s: Tensor, m: Tensor, n: Tensor, tau: Tensor | None, cos: Tensor | None,
    sin: Tensor | None, cu_seqlens: Tensor | None, state_index: Tensor | None, feature: str, norm: str,
    eps: float, eps_on: str, scale: float, cmin: float, centered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(dq, dS, ds, dm, dtau): dq in q's dtype, the state's in float32, dtau (H,) for "clamp" only."""
    check("lin_readout", q)
    q, dy = ready(q), ready(dy, q)
    batch, tokens, heads, key_dim = q.shape
    rows, value_dim = S.shape[0], S.shape[-1]
    cu = None if cu_seqlens is None else cu_seqlens.int().contiguous()
    cu, order = _by_state(state_index, cu, rows)
    dq = q.new_empty((batch, tokens, heads, key_dim))
    alpha, zeta, beta = (q.new_empty((batch, tokens, heads), dtype=torch.float32) for _ in range(3))
    tau_parts = None if tau is None else torch.empty_like(alpha)
    strides, align = strides_of(x=q, v=dy)
    tile, constants = common("readout_backward", q, value_dim, feature, centered, align)
    constants |= {"NORM": norm, "EPS_MEAN": eps_on == "mean"}
    count, tiles = _token_tiles(cu, rows, tokens, tile.tokens)
    args = {
        "dy": dy,
        "q": q,
        "dq": dq,
        "alpha_out": alpha,
        "zeta_out": zeta,
        "beta_out": beta,
        "tau_out": tau_parts,
    }
    args |= {"N": tokens, **strides, **tiles}
    args |= _readout_inputs(S, s, m, n, tau, cos, sin, cu, order, eps, scale, cmin)
    launch(q.device, Launch(readout_backward_kernel, (count, heads), args, constants, tile))

    inputs = {
        "alpha": alpha,
        "zeta": zeta,
        "beta": beta,
        "n_rows": n.contiguous(),
        "order": order,
        **_tables(cos, sin),
    }
    parts = _accumulate(q, dy, rows, cu, feature, False, _side_inputs(q, None, None), inputs)
    dS, ds, dm = (part.sum(0) for part in parts[:3])
    dtau = None if tau_parts is None else tau_parts.sum((0, 1)).to(tau.dtype)
    return dq, dS, ds, dm, dtau
