"""What a CenterPoint head is to say about labelled frames."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..records import Labels
from .cells import MapCells
from .center_code import cells_of, encode
from .flat_labels import flatten_labels
from .gaussians import draw_gaussians, gaussian_radius


class CenterTargets(NamedTuple):
    """heat (B, classes, Y, X); of the K objects: sample, row, column (K,) int64, code (K, 8 or 10), boxes."""

    heat: Tensor
    sample: Tensor
    row: Tensor
    column: Tensor
    code: Tensor
    boxes: Tensor


def center_targets(
    labels: Sequence[Labels], heat: Tensor, cells: MapCells, *, velocity: bool
) -> CenterTargets:
    """Targets for heat maps like ``heat`` (B, classes, Y, X): a Gaussian and one cell for each labelled box.

    A box whose centre is off the map counts at the border cell next to it: what must not be found is left
    out of the labels. Raises: ValueError as ``flatten_labels``.
    """
    batch, classes = heat.shape[:2]
    known = flatten_labels(labels, heat, batch_size=batch, classes=classes, velocity=velocity)
    at, cell = cells_of(known.boxes, cells)
    column, row = cell.unbind(1)
    x_size, y_size = cells.size
    radius = gaussian_radius(known.boxes[:, 3] / x_size, known.boxes[:, 4] / y_size)
    plane = known.sample * classes + known.classes
    drawn = draw_gaussians(plane, column, row, radius, heat.detach().flatten(0, 1))
    code = encode(known.boxes, at - cell)
    return CenterTargets(drawn.view_as(heat), known.sample, row, column, code, known.boxes)
