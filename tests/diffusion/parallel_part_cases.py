"""Cases of the parts of ``linzoo.diffusion.parallel``, each run by several ranks; see parallel_child.py."""

import torch
import torch.nn.functional as F
from torch import nn

from linzoo.diffusion.linfusion.attention import EPS
from linzoo.diffusion.parallel.bands import Bands, cut
from linzoo.diffusion.parallel.conv import BandConv
from linzoo.diffusion.parallel.linfusion import sum_of_states
from linzoo.diffusion.parallel.link import Sender, join
from linzoo.diffusion.parallel.norm import BandGroupNorm
from linzoo.diffusion.parallel.place import Call, Place, enter, leave
from linzoo.kernels import lin_readout, lin_reduce, linear_attn

THIN = (1, 2, 1, 8)  # rows of four ranks, thinner than the halos below


def ranks(world):
    """Mark a case: run by ``world`` processes."""

    def mark(case):
        case.world = world
        return case

    return mark


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def place_of(bands, levels=0):
    call = Call(join(None), None)
    call.begin(bands, levels)
    return Place(call, "part")


@ranks(4)
def rows_from_several_ranks(rank):
    bands, link = cut(12, 4, 1, THIN, "rows", ""), join(None)
    a, b = bands.of(rank)
    wanted = bands.widened(5, 3)
    results = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(2, 3, 12, 5).to(dtype)
        link.traffic.clear()
        first, last = wanted[rank]
        got = link.rows(x[:, :, a:b], 2, bands, wanted, Sender("x", "halo"))
        sent = sum(entry.bytes for entry in link.traffic.layers())
        results[str(dtype)] = [torch.equal(got, x[:, :, first:last]), sent // x.element_size()]
    whole = link.gather_rows(x[:, :, a:b], 2, bands, Sender("x", "gather"))
    return {"rows": results, "gathered": torch.equal(whole, x)}


CONVS = {
    "kernel 3": dict(kernel_size=3, padding=1),
    "kernel 5, dilated": dict(kernel_size=5, padding=6, dilation=3),
    "stride 2": dict(kernel_size=3, padding=1, stride=2),
    "kernel 1 x 3": dict(kernel_size=(1, 3), padding=(0, 1), stride=(2, 1)),
    "grouped, no bias": dict(kernel_size=3, padding=1, groups=2, bias=False),
}


@ranks(4)
def convolutions_of_bands(rank):
    errors = {}
    for name, words in CONVS.items():
        for rows in ((2, 4, 2, 4), (2, 2, 8, 1)):  # 12 and 13 rows
            bands = cut(sum(rows), 4, 2, rows, "rows", "")
            conv = nn.Conv2d(4, 6, **words).double()
            x = torch.randn(2, 4, bands.rows, 7).double()
            want = conv(x)
            enter(conv, BandConv, place_of(bands, levels=1))
            a, b = bands.of(rank)
            got = conv(x[:, :, a:b])
            leave(conv)
            first, last = (bands.halved() if conv.stride[0] == 2 else bands).of(rank)
            errors[f"{name}, {sum(rows)} rows"] = relative(got, want[:, :, first:last])
    conv = nn.Conv2d(
        4, 4, 3, padding=1
    ).double()  # settings that change while parallel, as on LinFusion's rungs
    enter(conv, BandConv, place_of(Bands((0, 1, 2, 3, 12))))
    conv.dilation = conv.padding = (4, 4)
    x = torch.randn(1, 4, 12, 9).double()
    own = slice(rank, 12 if rank == 3 else rank + 1)
    want = F.conv2d(x, conv.weight, conv.bias, padding=4, dilation=4)
    errors["dilated later"] = relative(conv(x[:, :, own]), want[:, :, own])
    return errors


@ranks(4)
def group_norms_of_bands(rank):
    bands = Bands((0, 1, 3, 4, 12))
    own = slice(*bands.of(rank))
    results = {}
    for name, offset in (("plain", 0.0), ("offset", 3000.0)):
        x = (torch.randn(2, 8, 12, 5) + torch.randn(2, 8, 1, 1)) + offset
        norm = nn.GroupNorm(4, 8)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        exact = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)[:, :, own]
        theirs = relative(norm(x)[:, :, own], exact)
        enter(norm, BandGroupNorm, place_of(bands))
        results[name] = [relative(norm(x[:, :, own]), exact), theirs]
        leave(norm)
    constant = torch.full((1, 8, 12, 5), 123.456)
    enter(norm, BandGroupNorm, place_of(bands))
    results["constant"] = (norm(constant[:, :, own]) - norm.bias.view(-1, 1, 1)).abs().max().item()
    half = torch.randn(1, 8, 12, 5).half()
    results["half"] = [str(norm.half()(half[:, :, own]).dtype), bool(norm(half[:, :, own]).isfinite().all())]
    return results


@ranks(4)
def states_of_unequal_shards(rank):
    q, k, v = (torch.randn(2, 48, 3, 8).double() for _ in range(3))
    want = linear_attn(q, k, v, feature="elu1", norm="sum", eps=EPS)
    bounds = (0, 1, 9, 12, 48)
    own = slice(bounds[rank], bounds[rank + 1])
    sent = []
    for width in (1, 3):  # the message does not grow with the tokens
        place = place_of(Bands((0, 1, 2, 3, 4)))
        tokens = slice(0, 48 * width)
        state = lin_reduce(*(x.repeat(1, width, 1, 1)[:, tokens] for x in (k, v)), feature="elu1", norm="sum")
        sum_of_states(state, place)
        sent.append(place.link.traffic.layers()[0].bytes)
    state = lin_reduce(k[:, own], v[:, own], feature="elu1", norm="sum")
    merged = sum_of_states(state, place)
    got = lin_readout(q[:, own], merged, feature="elu1", norm="sum", eps=EPS)
    return {"error": relative(got, want[:, own]), "count": merged.n.tolist(), "sent": sent}
