"""One of several processes, each holding part of the tokens; exits with 1 when the whole is not reproduced.

python key_softmax_child.py RANK WORLD FILE
"""

import sys

import torch
import torch.distributed as dist

from linzoo.kernels import key_softmax_attn, key_softmax_readout, key_softmax_reduce

CUTS = {2: (0, 13, 40), 3: (0, 0, 25, 40)}  # the first of three processes holds no token that counts


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def main(rank: int, world: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    a, b = CUTS[world][rank : rank + 2]
    own = slice(a, b) if b > a else slice(0, 1)
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 40, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    probe = torch.randn(2, 40, 3, 8, dtype=torch.float64)
    angle = torch.randn(40, 3, 4, dtype=torch.float64).repeat_interleave(2, -1)
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[:, a:b] = True
    # in half of the channels the parts are so far apart that only their largest key is a scale for all
    ramp = torch.arange(40)[:, None, None] * torch.tensor([50.0] * 4 + [0.0] * 4).double()
    for rope in (None, (angle.cos(), angle.sin())):
        whole = key_softmax_attn(q, 20 * k + ramp, v, rope=rope)
        wanted = torch.autograd.grad((whole * probe).sum(), (q, k, v))

        part = None if rope is None else tuple(t[own] for t in rope)
        keys = (20 * k + ramp)[:, own]
        state = key_softmax_reduce(keys, v[:, own], rope=part, mask=mask[:, own]).all_reduce()
        y = key_softmax_readout(q[:, own], state, rope=part)
        share = probe[:, own] * mask[:, own, None, None]
        got = torch.autograd.grad((y * share).sum(), (q, k, v))
        if b > a:
            errors = [
                relative(y, whole[:, a:b]),
                *(relative(x[:, a:b], z[:, a:b]) for x, z in zip(got, wanted, strict=True)),
            ]
            assert max(errors) < 1e-12, (rope is not None, rank, errors)
            outside = [x[:, ~mask[0]].abs().max().item() for x in got]
            assert max(outside) == 0, outside
    dist.barrier()  # whoever leaves first would close the connections of the others
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
