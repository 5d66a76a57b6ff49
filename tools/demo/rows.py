"""What a mixer attends to: the weights A_ts with which the values v_s enter its output y_t = sum_s A_ts v_s.

Worked out from each paper's formula for one query token t; the O(N) form never writes it down:

    softmax  softmax_s(d^-1/2 R q_t . R k_s)
    rala     R a_t . R w_s b_s / (N (a_t . mean_s w_s b_s + 1e-6))
    mala     tau (R a_t . R b_s) (1 + 1/(z_t + 1e-6)) - z_t / N,  z_t = tau a_t . sum_s b_s,  tau = d^-1/2 / N
    nala     R f(q_t) . R g(k_s) / (N (f(q_t) . mean_s g(k_s) + 1e-6))
    l2       tau_h relu(q_t) . relu(k_s) / max(relu(q_t) . sum_s relu(k_s), 100)
    inline   d^-1/2 / N q_t . (k_s - mean k) + 1/N
    lightnet R silu(q_t) . R softmax_s(k)_s                    the softmax for each channel alone

R the rotary turn, a = elu(q) + 1, b = elu(k) + 1, w RALA's key weights, f and g NaLa's features. Softmax
weights are positive and sum to one, InLine's sum to one; RALA's, MALA's and NaLa's need not: they turn the
numerator alone. LightNet's are normalised behind the sum, with its gate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.key_softmax.positions import rotated
from ...vision.layers.rope import rotate
from ...vision.nalaformer.mixer import key_features, query_features
from ...vision.ravlt.mixer import key_weights

Rope = tuple[Tensor, Tensor]


def queries_keys_values(mixer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(1, H, W, C), a mixer's input -> q, k, v, each (1, N, heads, D)."""
    if hasattr(mixer, "split_heads"):  # one Linear for three
        return mixer.split_heads(x.flatten(1, 2))
    if hasattr(mixer, "qkv"):
        return mixer.qkv(x.flatten(1, 2)).unflatten(-1, (3, mixer.heads, -1)).unbind(2)
    q, k, v, _ = mixer.qkvg(x).chunk(4, -1)
    return tuple(t.flatten(1, 2).unflatten(-1, (mixer.heads, -1)) for t in (q, k, v))


def effective_row(name: str, mixer: nn.Module, x: Tensor, rope: Rope | None, token: int) -> Tensor:
    """Weights of query ``token`` on every token: x (1, H, W, C), a mixer's input -> (heads, N), float64."""
    q, k, _ = (t.double() for t in queries_keys_values(mixer, x))
    if hasattr(mixer, "tables"):  # its own angles
        rope = mixer.tables(x.shape[1:3], q, 0)
    rope = None if rope is None else tuple(t.double() for t in rope)
    return ROWS[name](mixer, q, k, rope, token)


def _turned_product(f: Tensor, g: Tensor, rope: Rope, token: int) -> Tensor:
    """R f_t . R g_s: (1, N, heads, D) twice -> (heads, N)."""
    return torch.einsum("hd,nhd->hn", rotate(f, rope)[0, token], rotate(g, rope)[0])


def _product_with_mean(f: Tensor, g: Tensor, token: int) -> Tensor:
    """f_t . mean_s g_s: (heads, 1)."""
    return (f[0, token] * g[0].mean(0)).sum(-1, keepdim=True)


def _softmax(mixer: nn.Module, q: Tensor, k: Tensor, rope: Rope, token: int) -> Tensor:
    return (q.shape[-1] ** -0.5 * _turned_product(q, k, rope, token)).softmax(-1)


def _rala(mixer: nn.Module, q: Tensor, k: Tensor, rope: Rope, token: int) -> Tensor:
    f, g = F.elu(q) + 1, (F.elu(k) + 1) * key_weights(q, k).unsqueeze(-1)
    return _turned_product(f, g, rope, token) / (k.shape[1] * (_product_with_mean(f, g, token) + 1e-6))


def _mala(mixer: nn.Module, q: Tensor, k: Tensor, rope: Rope, token: int) -> Tensor:
    f, g = F.elu(q) + 1, F.elu(k) + 1
    scale, n = q.shape[-1] ** -0.5, k.shape[1]
    z = scale * _product_with_mean(f, g, token)
    return scale / n * _turned_product(f, g, rope, token) * (1 + 1 / (z + 1e-6)) - z / n


def _nala(mixer: nn.Module, q: Tensor, k: Tensor, rope: Rope, token: int) -> Tensor:
    f, g = query_features(q), key_features(k)
    if rope[0].shape[-1] == q.shape[-1]:  # the pyramid repeats the tables itself, one for each half
        rope = tuple(torch.cat((table, table), -1) for table in rope)
    product = _turned_product(f, g, rope, token)
    return product / (k.shape[1] * (_product_with_mean(f, g, token) + 1e-6))


def _l2(mixer: nn.Module, q: Tensor, k: Tensor, rope: None, token: int) -> Tensor:
    product = torch.einsum("hd,nhd->hn", q[0, token].relu(), k[0].relu())
    tau = mixer.temperature.double().unsqueeze(-1)
    return tau * product / product.sum(-1, keepdim=True).clamp(min=mixer.bound)


def _inline(mixer: nn.Module, q: Tensor, k: Tensor, rope: None, token: int) -> Tensor:
    n, scale = k.shape[1], q.shape[-1] ** -0.5
    return (scale * torch.einsum("hd,nhd->hn", q[0, token], k[0] - k[0].mean(0)) + 1) / n


def _lightnet(mixer: nn.Module, q: Tensor, k: Tensor, rope: Rope, token: int) -> Tensor:
    return torch.einsum("hd,nhd->hn", rotated(q, *rope)[0, token], rotated(k.softmax(1), *rope)[0])


ROWS = {
    "softmax": _softmax, "rala": _rala, "mala": _mala, "nala": _nala, "l2": _l2, "inline": _inline,
    "lightnet": _lightnet,
}  # fmt: skip
