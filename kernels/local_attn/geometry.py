"""Where tokens lie and who sees whom, as plain integers that an op can take."""

from typing import NamedTuple

from torch import Tensor


class Geometry(NamedTuple):
    """rows, width: the grid of the keys. first, last: the grid rows of the image queries, last excluded.

    q_global, k_global: global tokens among the queries and among the keys. global_first: 1 when they come
    before the image tokens, 0 when after. reach_y, reach_x, limit: an image query sees the image key that is
    (dy, dx) away when |dy| <= reach_y, |dx| <= reach_x and dy^2 + dx^2 <= limit.
    """

    rows: int
    width: int
    first: int
    last: int
    q_global: int
    k_global: int
    global_first: int
    reach_y: int
    reach_x: int
    limit: int

    @property
    def image_queries(self) -> int:
        return (self.last - self.first) * self.width

    @property
    def image_keys(self) -> int:
        return self.rows * self.width

    @property
    def query_image_start(self) -> int:
        """The position of the first image token among the queries."""
        return self.q_global if self.global_first else 0

    @property
    def key_image_start(self) -> int:
        return self.k_global if self.global_first else 0

    @property
    def query_global_start(self) -> int:
        return 0 if self.global_first else self.image_queries

    @property
    def key_global_start(self) -> int:
        return 0 if self.global_first else self.image_keys

    def clipped(self) -> "Geometry":
        """The same pairs, with reaches no larger than the grid: 32-bit arithmetic is enough for them."""
        y, x = min(self.reach_y, self.rows - 1), min(self.reach_x, self.width - 1)
        return self._replace(reach_y=y, reach_x=x, limit=min(self.limit, y * y + x * x))

    def image_of_queries(self, x: Tensor) -> Tensor:
        """(B, Nq, ...) -> (B, last - first, width, ...), a view."""
        start = self.query_image_start
        return x[:, start : start + self.image_queries].unflatten(1, (-1, self.width))

    def image_of_keys(self, x: Tensor) -> Tensor:
        start = self.key_image_start
        return x[:, start : start + self.image_keys].unflatten(1, (-1, self.width))

    def globals_of_queries(self, x: Tensor) -> Tensor:
        """(B, Nq, ...) -> (B, q_global, ...), a view."""
        return x.narrow(1, self.query_global_start, self.q_global)

    def globals_of_keys(self, x: Tensor) -> Tensor:
        return x.narrow(1, self.key_global_start, self.k_global)
