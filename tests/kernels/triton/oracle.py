"""Linear attention in float64, written from the formulas: states by einsum, attention by the N x N matrix."""

import torch
from device import DEVICE
from torch import Tensor


def phi(x: Tensor, feature: str) -> Tensor:
    return {"identity": lambda: x, "relu": x.relu, "elu1": lambda: torch.where(x > 0, x + 1, x.exp())}[
        feature
    ]()


def turn(x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    if rope is None:
        return x
    cos, sin = (t[:, None, :] for t in rope)
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos[..., 0::2] - x[..., 1::2] * sin[..., 0::2]
    out[..., 1::2] = x[..., 1::2] * cos[..., 1::2] + x[..., 0::2] * sin[..., 1::2]
    return out


def rows_of(case, batch: int, tokens: int) -> list[tuple[int, slice]]:
    """(batch item, token range) of every row or segment."""
    if case.cu is None:
        return [(b, slice(0, tokens)) for b in range(batch)]
    return [(0, slice(a, b)) for a, b in zip(case.cu[:-1], case.cu[1:], strict=True)]


def states(case, k, v, weight, mask, rope) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(S, s, m, n) of every row, centred when the case is."""
    out = []
    for b, span in rows_of(case, *k.shape[:2]):
        keep = (
            torch.ones(len(k[b, span]), dtype=torch.bool, device=k.device) if mask is None else mask[b, span]
        )
        p, values = phi(k[b, span][keep], case.feature), v[b, span][keep]
        if weight is not None:
            p = p * weight[b, span][keep][..., None]
        turned = turn(p, None if rope is None else tuple(t[span][keep] for t in rope))
        count = int(keep.sum())
        S = torch.einsum("nhd,nhe->hde", turned, values)
        if case.centered and count:
            p_about, v_about = p - p.mean(0), values - values.mean(0)
            S = torch.einsum("nhd,nhe->hde", p_about, v_about)
        out.append((S, p.sum(0), values.sum(0), torch.tensor(count, device=k.device)))
    return tuple(torch.stack(x) for x in zip(*out, strict=True))


def readers(case, batch: int, tokens: int) -> Tensor:
    """(B, N): the row of the state that each token reads."""
    if case.state_index is not None:
        return case.state_index[None].long()
    index = torch.empty(batch, tokens, dtype=torch.long, device=DEVICE)
    for row, (b, span) in enumerate(rows_of(case, batch, tokens)):
        index[b, span] = row
    return index


def readout(case, q, S, s, m, n, tau, rope) -> Tensor:
    index = readers(case, *q.shape[:2])
    f = phi(q, case.feature)
    z = torch.einsum("bnhd,bnhd->bnh", f, s[index])[..., None]
    u = torch.einsum("bnhd,bnhde->bnhe", turn(f, rope), S[index])
    count = n[index].clamp(min=1).double()[..., None, None]
    mean = m[index] / count
    scale = case.scale(q.shape[-1]) / count
    if case.norm == "sum":
        y = u / (z + (case.eps * count if case.eps_on == "mean" else case.eps))
    elif case.norm == "clamp":
        y = u * tau[:, None] / z.clamp(min=case.cmin)
    elif case.norm == "mag":
        y = scale * u * (1 + 1 / (scale * z + case.eps)) - scale * z * mean
    else:
        y = scale * u + (mean if case.centered else (1 - scale * z) * mean)
    return torch.where((n[index] > 0)[..., None, None], y, 0.0)


def attention(case, q, k, v, weight, mask, rope, tau) -> Tensor:
    """The whole op through each row's N x N weights; no state is formed, so nothing above is used."""
    y = q.sum() * 0 + v.new_zeros(*q.shape[:3], v.shape[-1])
    for b, span in rows_of(case, *q.shape[:2]):
        keep = (
            torch.ones(len(k[b, span]), dtype=torch.bool, device=k.device) if mask is None else mask[b, span]
        )
        part = None if rope is None else tuple(t[span] for t in rope)
        f, p, values = phi(q[b, span], case.feature), phi(k[b, span], case.feature), v[b, span]
        if weight is not None:
            p = p * weight[b, span][..., None]
        scores = torch.einsum("ihd,jhd->hij", turn(f, part), turn(p, part))[..., keep]
        z = torch.einsum("ihd,jhd->hij", f, p)[..., keep].sum(-1, keepdim=True)
        n, values = int(keep.sum()), values[keep].transpose(0, 1)
        if n == 0:
            continue
        scale, mean = case.scale(q.shape[-1]) / n, values.mean(1, keepdim=True)
        if case.norm == "sum":
            out = scores / (z + (case.eps * n if case.eps_on == "mean" else case.eps)) @ values
        elif case.norm == "clamp":
            out = scores / z.clamp(min=case.cmin) @ values * tau[:, None, None]
        elif case.norm == "mag":
            out = scale * (1 + 1 / (scale * z + case.eps)) * (scores @ values) - scale * z * mean
        else:
            out = scale * (scores @ values) + (1 - scale * z) * mean
        y[b, span] = out.transpose(0, 1)
    return y
