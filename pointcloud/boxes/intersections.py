"""The area that two turned rectangles share, exactly, and with gradients.

The shared polygon's corners are among 24 points: the corners of either rectangle that lie in the other, and
the 16 crossings of an edge of one with an edge of the other. Those that count are sorted by angle around
their mean, and the shoelace formula gives the area. Everything is float64, in the frame of the first box, so
that coordinates are as small as the boxes whatever their distance from the sensor.

Tolerances: an edge that deviates from an edge's line by less than PARALLEL box sizes has no crossing with it;
corners within INSIDE (more than that) of a rectangle lie in it. So no corner of the polygon is lost where
edges coincide, and an area is off by less than about INSIDE times size squared.
"""

import torch
from torch import Tensor

from .corners import SIGNS

PARALLEL, INSIDE = 2e-15, 1e-14


def bev_intersections(a: Tensor, b: Tensor) -> Tensor:
    """Shared area in m^2, row by row: (P, 7 or more) float64 twice -> (P,); differentiable in both."""
    points, counts = _candidates(a, b)
    with torch.no_grad():
        order, number = _around(points, counts)
        area = _shoelace(points, order, number)
        if not points.requires_grad:
            return area
        pull = _pull(points, order, number)
    return area + ((points - points.detach()) * pull).sum((1, 2))


def _candidates(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The 24 points (P, 24, 2) in a's frame, and which of them belong to the polygon."""
    half_a, half_b = a[:, None, 3:5] / 2, b[:, None, 3:5] / 2
    size = (half_a + half_b).sum(-1, keepdim=True).detach()
    centre = _turned((b[:, :2] - a[:, :2])[:, None], -a[:, 6:7])
    turn = (b[:, 6] - a[:, 6])[:, None]
    signs = a.new_tensor(SIGNS)
    corners_a, corners_b = signs * half_a, centre + _turned(signs * half_b, turn)
    a_in_b = (_turned(corners_a - centre, -turn).abs() <= half_b + INSIDE * size).all(-1)
    b_in_a = (corners_b.abs() <= half_a + INSIDE * size).all(-1)
    points, counts = [corners_a, corners_b], [a_in_b, b_in_a]
    edges = corners_b.roll(-1, 1) - corners_b
    for axis in (0, 1):
        point, count = _crossings(corners_b, edges, half_a, PARALLEL * size, axis)
        points.append(point)
        counts.append(count)
    return torch.cat(points, 1), torch.cat(counts, 1)


def _turned(xy: Tensor, angle: Tensor) -> Tensor:
    """(P, K, 2) turned by (P, 1) radians."""
    x, y = xy.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1)


def _crossings(
    starts: Tensor, edges: Tensor, half: Tensor, parallel: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """Where b's edges cross the two sides of a that ``axis`` is normal to: (P, 8, 2), and which ones do."""
    step = edges[..., axis]
    crosses = step.abs() > parallel[..., 0]
    side = torch.stack((half[..., axis], -half[..., axis]), -1)  # (P, 1, 2)
    t = (side - starts[..., axis, None]) / torch.where(crosses, step, 1.0)[..., None]  # (P, 4, 2)
    other = starts[..., 1 - axis, None] + t * edges[..., 1 - axis, None]
    counts = crosses[..., None] & (t >= 0) & (t <= 1) & (other.abs() <= half[..., 1 - axis, None])
    pair = (side.expand_as(other), other)
    points = torch.stack(pair if axis == 0 else pair[::-1], -1)
    return points.flatten(1, 2), counts.flatten(1)


def _around(points: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (P, 24): the points that count, in order round their mean, then the rest; how many do (P,)."""
    number = counts.sum(1)
    middle = (points * counts[..., None]).sum(1, keepdim=True) / number.clamp(min=1)[:, None, None]
    x, y = (points - middle).unbind(-1)
    angle = torch.where(counts, torch.atan2(y, x), torch.inf)
    return angle.argsort(dim=1, stable=True), number


def _neighbour(points: Tensor, order: Tensor, number: Tensor, step: int) -> Tensor:
    """For the points in order, (P, W, 2), the one ``step`` places on round the polygon (P, W, 2)."""
    place = torch.arange(order.shape[1], device=points.device) + step
    index = order.gather(1, place % number.clamp(min=1)[:, None])
    return points.gather(1, index[..., None].expand(-1, -1, 2))


def _shoelace(points: Tensor, order: Tensor, number: Tensor) -> Tensor:
    width = int(number.max()) if len(number) else 0  # no polygon has more corners
    order = order[:, :width]
    here, after = (_neighbour(points, order, number, step) for step in (0, 1))
    start = here[:, :1]  # small numbers: slivers keep their digits
    (x, y), (u, v) = (here - start).unbind(-1), (after - start).unbind(-1)
    inside = torch.arange(width, device=points.device) < number[:, None]
    area = torch.where(inside, x * v - u * y, 0.0).sum(1) / 2
    return torch.where(number > 2, area.clamp(min=0), 0.0)


def _pull(points: Tensor, order: Tensor, number: Tensor) -> Tensor:
    """The area's derivative by each point (P, 24, 2), half the step from one neighbour to the other, turned.

    Written out, because autograd would add up the parts of a repeated point in no fixed order on a GPU.
    """
    x, y = (_neighbour(points, order, number, 1) - _neighbour(points, order, number, -1)).unbind(-1)
    turned = torch.stack((y, -x), -1) / 2
    counts = (torch.arange(order.shape[1], device=points.device) < number[:, None]) & (number > 2)[:, None]
    turned = torch.where(counts[..., None], turned, 0.0)
    return turned.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, 2))
