"""A LION layer: two sequence operators in series, over groups of voxels along x, then along y."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..voxels import Voxels
from ..windows import Cells, check_window
from .grouping import Padding, check_group, group
from .operators import make_operator

AXES = ("x", "y")  # the order of the first operator, and of the second
PER_LAYER = len(AXES)


class LionLayer(nn.Module):
    """Voxels -> Voxels with the same cells.

    channels: C of the features.  operator: a name that ``make_operator`` knows.  window: cells (z, y, x) of
    the windows by which voxels are sorted.  group_size: voxels of a sequence.  shifted: windows that start
    half a window early.  layer_id: place of the first operator among the network's ``n_layer``.
    drop_path: probability that a sequence leaves out an operator's branch while training.
    padding: "repeat" (published) or "none", as ``grouping.group`` has it.  operator_words: what the operator
    takes besides (``heads``, ...).
    Raises ValueError for words that are none of these.
    """

    def __init__(
        self,
        channels: int,
        *,
        operator: str,
        window: Cells,
        group_size: int,
        shifted: bool = False,
        layer_id: int = 0,
        n_layer: int = PER_LAYER,
        drop_path: float = 0.0,
        padding: Padding = "repeat",
        operator_words: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        check_window(window)
        check_group(group_size, padding)
        self.window, self.group_size, self.shifted, self.padding = window, group_size, shifted, padding
        words = dict(operator_words or {})
        self.blocks = nn.ModuleList(
            make_operator(operator, channels, layer_id + i, n_layer, drop_path=drop_path, **words)
            for i in range(PER_LAYER)
        )

    def forward(self, voxels: Voxels) -> Voxels:
        if len(voxels) == 0:  # nothing is mixed; the parameters still belong to the result
            unused = sum(parameter.sum() for parameter in self.parameters()) * 0
            return voxels.with_features(voxels.features + unused)
        features = voxels.features
        for axis, block in zip(AXES, self.blocks, strict=True):
            groups = group(
                voxels,
                self.window,
                self.group_size,
                axis=axis,
                shifted=self.shifted,
                padding=self.padding,
            )
            features = groups.rows(block(groups.tokens(features), groups.cu_seqlens))
        return voxels.with_features(features)

    def extra_repr(self) -> str:
        shifted = ", shifted" if self.shifted else ""
        return f"window={self.window}, group_size={self.group_size}{shifted}, padding={self.padding!r}"
