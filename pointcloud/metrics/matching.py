"""Which detection found which object, and what that says of each detection of a class."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


def match(likeness: Array, scores: Array, ignored: Array, above: float) -> Array:
    """Best detection first, each takes the free object most like it, counted objects before ignored ones.

    Args:
        likeness: (D, G), of each detection to each object.  scores: (D,); of equal ones the first is better.
        ignored: (G,) bool, objects that may be found but need not be.
        above: the likeness that a match must exceed.
    Returns: (D,) int64, the object that each detection took, -1 for none. No object is taken twice.
    """
    taken = np.full(len(scores), -1, dtype=np.int64)
    if likeness.size == 0:
        return taken
    rank = np.where(likeness > above, likeness - np.where(ignored, np.ptp(likeness) + 1.0, 0.0), -np.inf)
    for row in np.argsort(-scores, kind="stable"):
        best = int(np.argmax(rank[row]))
        if rank[row, best] > -np.inf:
            taken[row] = best
            rank[:, best] = -np.inf
    return taken


@dataclass
class Tally:
    """Detections of a class that count, over all frames: their scores, and which of them found something.

    ``weights`` grade the hits (1, or how well the heading fits); ``total`` counts the objects to be found.
    """

    total: int = 0
    _scores: list[Array] = field(default_factory=list)
    _hits: list[Array] = field(default_factory=list)
    _weights: list[Array] = field(default_factory=list)

    def add(self, scores: Array, taken: Array, ignored: Array, weights: Array | None = None) -> None:
        """A frame: scores (D,), objects taken (D,) as ``match`` says, ignored (G,), weights (D, G)."""
        self.total += int((~ignored).sum())
        hit = taken >= 0
        counts = ~hit
        counts[hit] = ~ignored[taken[hit]]
        grade = hit.astype(np.float64)
        if weights is not None:
            grade[hit] = weights[hit, taken[hit]]
        for kept, values in ((self._scores, scores), (self._hits, hit), (self._weights, grade)):
            kept.append(values[counts])

    @property
    def scores(self) -> Array:
        return np.concatenate([np.zeros(0), *self._scores])

    @property
    def hits(self) -> Array:
        return np.concatenate([np.zeros(0, dtype=bool), *self._hits])

    @property
    def weights(self) -> Array:
        return np.concatenate([np.zeros(0), *self._weights])


def heading_difference(a: Array, b: Array) -> Array:
    """Yaws (D,), (G,) -> (D, G), the angle between each two, 0 to pi."""
    difference = np.remainder(a[:, None] - b[None] + np.pi, 2 * np.pi) - np.pi
    return np.abs(difference)
