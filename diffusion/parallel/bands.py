"""Which rank holds which rows, at every resolution, and which it needs of others. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]  # first row, row after the last


@dataclass(frozen=True, slots=True)
class Bands:
    """The rows of one resolution over the ranks: rank i holds rows edges[i] .. edges[i + 1] - 1."""

    edges: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.edges[-1]

    def of(self, rank: int) -> Span:
        return self.edges[rank], self.edges[rank + 1]

    def sizes(self) -> list[int]:
        return [b - a for a, b in zip(self.edges, self.edges[1:], strict=False)]

    def halved(self) -> Bands:
        """The same bands behind a layer of stride 2, which keeps rows 0, 2, 4, ...: edges must be even."""
        return Bands(tuple((edge + 1) // 2 for edge in self.edges))

    def widened(self, before: int, after: int) -> list[Span]:
        """Each rank's band with ``before`` rows above it and ``after`` below, as far as there are rows."""
        spans = (self.of(rank) for rank in range(len(self.edges) - 1))
        return [(max(a - before, 0), min(b + after, self.rows)) for a, b in spans]

    def shares(self, wanted: Span) -> list[tuple[int, Span]]:
        """(rank, rows) that together make up the rows ``wanted``, in order; empty shares are left out."""
        cuts = (
            (rank, (max(a, wanted[0]), min(b, wanted[1])))
            for rank, (a, b) in enumerate(zip(self.edges, self.edges[1:], strict=False))
        )
        return [(rank, (a, b)) for rank, (a, b) in cuts if a < b]


def cut(rows: int, world: int, unit: int, given: Sequence[int] | None, what: str, why: str) -> Bands:
    """Bands for an image of ``rows`` rows.

    Args:
        unit: inner edges must be multiples of it, to be edges at every resolution of the model.
        given: rows of each rank; None shares them as evenly as ``unit`` allows.
        what: the rows, in words, for errors ("latent rows").
        why: the reason for ``unit``, in words.
    Raises: ValueError that says which numbers would do.
    """
    units = -(-rows // unit)
    if units < world:
        each = f" in bands that are multiples of {unit} ({why})" if unit > 1 else ""
        raise ValueError(
            f"parallelize: the group must have at most {units} ranks for {rows} {what}{each}, got {world}"
        )
    if given is None:
        inner = (unit * (units * rank // world) for rank in range(world))
        return Bands((*inner, rows))
    edges = [0]
    for size in given:
        edges.append(edges[-1] + size)
    if edges[-1] != rows:
        raise ValueError(
            f"parallelize: rows must add up to the {rows} {what} of this call, got {tuple(given)}, which "
            f"add up to {edges[-1]}; leave rows out to have them shared at every size"
        )
    if any(edge % unit for edge in edges[1:-1]):
        raise ValueError(
            f"parallelize: every band but the last must be a multiple of {unit} {what} ({why}), got "
            f"{tuple(given)}"
        )
    return Bands(tuple(edges))


def check_rows(rows: object, world: int) -> tuple[int, ...] | None:
    """``rows`` of ``parallelize`` before a size is known: one whole number > 0 per rank, or None."""
    if rows is None:
        return None
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Sequence):
        raise TypeError(f"parallelize: rows must be None or one integer per rank, got {type(rows).__name__}")
    for size in rows:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"parallelize: rows must hold integers, got {size!r}")
        if size < 1:
            raise ValueError(f"parallelize: rows must be >= 1 each, got {tuple(rows)}")
    if len(rows) != world:
        raise ValueError(
            f"parallelize: rows must have one entry per rank ({world} ranks), got {len(rows)} entries"
        )
    return tuple(rows)
