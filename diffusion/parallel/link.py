"""What ranks say to each other: rows to those who need them, sums, and all to all. Every message is counted.

Only calls that gloo and nccl both have. Ranks work out who sends what from the bands: nothing is negotiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .bands import Bands, Span
from .report import Traffic


@dataclass(frozen=True, slots=True)
class Sender:
    """For whom a message is counted."""

    layer: str
    kind: str


class Link:
    """This process in a group of processes."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.world = dist.get_world_size(group)
        self.traffic = Traffic()

    def start_rows(
        self, x: Tensor, dim: int, bands: Bands, wanted: Sequence[Span], sender: Sender
    ) -> Callable[[], Tensor]:
        """Begin to fetch rows; the function that comes back waits for them.

        Args:
            x: this rank's band, rows along ``dim``.
            wanted: for every rank the rows that it needs, within the image.
        Returns: a function without arguments -> the rows ``wanted[rank]``, in order.
        """
        first = bands.edges[self.rank]
        sends, receives, parts = [], [], []
        for peer, span in enumerate(wanted):
            for owner, (a, b) in bands.shares(span):
                if owner == self.rank and peer != self.rank:
                    part = x.narrow(dim, a - first, b - a).contiguous()
                    self.traffic.add(sender.layer, sender.kind, nbytes(part))
                    sends.append(dist.P2POp(dist.isend, part, group=self.group, group_peer=peer))
                elif peer == self.rank and owner == self.rank:
                    parts.append(x.narrow(dim, a - first, b - a))
                elif peer == self.rank:
                    shape = [*x.shape[:dim], b - a, *x.shape[dim + 1 :]]
                    parts.append(x.new_empty(shape))
                    receives.append(dist.P2POp(dist.irecv, parts[-1], group=self.group, group_peer=owner))
        works = dist.batch_isend_irecv(sends + receives) if sends or receives else []

        def finish() -> Tensor:
            for work in works:
                work.wait()
            sends.clear()  # keeps what is sent alive until it has left
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

        return finish

    def rows(self, x: Tensor, dim: int, bands: Bands, wanted: Sequence[Span], sender: Sender) -> Tensor:
        """As ``start_rows``, waiting at once."""
        return self.start_rows(x, dim, bands, wanted, sender)()

    def gather(self, x: Tensor, sender: Sender) -> list[Tensor]:
        """The tensor of every rank, in rank order; all have the same shape."""
        x = x.contiguous()
        self.traffic.add(sender.layer, sender.kind, nbytes(x))
        parts = [torch.empty_like(x) for _ in range(self.world)]
        dist.all_gather(parts, x, group=self.group)
        return parts

    def gather_rows(self, x: Tensor, dim: int, bands: Bands, sender: Sender) -> Tensor:
        """All rows, on every rank. Bands are filled up to the highest: collectives want equal shapes."""
        sizes = bands.sizes()
        missing = max(sizes) - sizes[self.rank]
        if missing:
            x = torch.cat((x, x.new_zeros([*x.shape[:dim], missing, *x.shape[dim + 1 :]])), dim)
        parts = self.gather(x, sender)
        return torch.cat([part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)], dim)

    def sum(self, x: Tensor, sender: Sender) -> Tensor:
        """The sum over ranks; every rank gets the same bits."""
        x = x.clone(memory_format=torch.contiguous_format)
        self.traffic.add(sender.layer, sender.kind, nbytes(x))
        dist.all_reduce(x, group=self.group)
        return x


def nbytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def join(group: dist.ProcessGroup | None) -> Link:
    """The link of this process.

    Raises: RuntimeError without torch.distributed; TypeError or ValueError for ``group``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "parallelize: torch.distributed must be initialised, got no process group; call "
            "torch.distributed.init_process_group first, e.g. under torchrun"
        )
    if isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("parallelize: group must contain this process, got a group that it is not in")
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"parallelize: group must be a torch.distributed.ProcessGroup or None, got {type(group).__name__}"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(
            f"parallelize: group must contain this process (rank {dist.get_rank()} of all), got one that "
            "does not"
        )
    return Link(group)
