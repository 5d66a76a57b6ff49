"""One of several processes, each holding part of the tokens; exits with 1 when the whole is not reproduced.

python all_reduce_child.py RANK WORLD FILE
"""

import sys

import torch
import torch.distributed as dist

from linzoo.kernels import lin_readout, lin_reduce, linear_attn

CUTS = {2: (0, 13, 40), 3: (0, 0, 25, 40)}  # the first of three processes holds no token that counts


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def main(rank: int, world: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    a, b = CUTS[world][rank : rank + 2]
    for norm in ("sum", "mag", "sub"):
        torch.manual_seed(1)
        q, k, v = (torch.randn(2, 40, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
        probe = torch.randn(2, 40, 3, 8, dtype=torch.float64)
        whole = linear_attn(q, k, v, feature="elu1", norm=norm)
        wanted = torch.autograd.grad((whole * probe).sum(), (q, k, v))

        mask = torch.zeros(2, 40, dtype=torch.bool)
        mask[:, a:b] = True
        own = slice(a, b) if b > a else slice(0, 1)
        state = lin_reduce(k[:, own], v[:, own], feature="elu1", norm=norm, mask=mask[:, own]).all_reduce()
        assert state.n.tolist() == [40, 40]
        y = lin_readout(q[:, own], state, feature="elu1", norm=norm)
        share = probe[:, own] * mask[:, own, None, None]
        got = torch.autograd.grad((y * share).sum(), (q, k, v))
        if b > a:
            errors = [
                relative(y, whole[:, a:b]),
                *(relative(x[:, a:b], z[:, a:b]) for x, z in zip(got, wanted, strict=True)),
            ]
            assert max(errors) < 1e-12, (norm, rank, errors)
            outside = [x[:, ~mask[0]].abs().max().item() for x in got]
            assert max(outside) == 0, outside
    dist.barrier()  # whoever leaves first would close the connections of the others
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
