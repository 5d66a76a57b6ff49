"""How much a rank sends: counted message by message, per layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """What this rank put on the wire for one layer in one model call.

    Args:
        layer: dotted module name; "" for the model itself.
        kind: "check", "conv", "norm", "state", "halo", "text", "pooled" or "gather".
        messages: sends to one rank, and collectives.
        bytes: payload handed over: of a send what the one receiver gets, of a collective this rank's own part
            once (how often a library forwards it is its own affair: a ring sends about twice that in an
            all-reduce and world - 1 times that in an all-gather).
    """

    layer: str
    kind: str
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ParallelReport:
    """The last model call of one rank."""

    rank: int
    world: int
    rows: tuple[int, int] | None  # of the latent or token grid; None before the first call
    calls: int
    layers: tuple[LayerTraffic, ...]

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind."""
        total: dict[str, int] = defaultdict(int)
        for layer in self.layers:
            total[layer.kind] += layer.bytes
        return dict(total)

    def __str__(self) -> str:
        where = "no call yet" if self.rows is None else f"rows {self.rows[0]} to {self.rows[1] - 1}"
        sent = f"{self.bytes:,} bytes sent in the last of {self.calls} calls"
        head = f"rank {self.rank} of {self.world}, {where}, {sent}"
        width = max((len(layer.layer) for layer in self.layers), default=0)
        lines = [
            f"  {x.layer or '(model)':{width + 2}}{x.kind:8}{x.messages:4} messages {x.bytes:14,} bytes"
            for x in self.layers
        ]
        return "\n".join((head, *lines))


class Traffic:
    """The running count of one model call."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], list[int]] = {}

    def clear(self) -> None:
        self.counts.clear()

    def add(self, layer: str, kind: str, size: int) -> None:
        count = self.counts.setdefault((layer, kind), [0, 0])
        count[0] += 1
        count[1] += size

    def layers(self) -> tuple[LayerTraffic, ...]:
        return tuple(LayerTraffic(layer, kind, *count) for (layer, kind), count in self.counts.items())
