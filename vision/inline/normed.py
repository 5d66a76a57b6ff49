"""What InLine-Swin and InLine-CSwin end with: LayerNorm, pooling, classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..backbone import Backbone


class NormedPyramid(Backbone):
    """A Backbone whose ``final`` is a LayerNorm over channels, and whose stem is ``ConvNorm``."""

    first_conv = "stem.conv"
    final_is_norm = True

    def finish(
        self,
        stages: Sequence[nn.Module],
        dims: Sequence[int],
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Sets the stages and what follows them."""
        dd = {"device": device, "dtype": dtype}
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-5, **dd)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = self.head_hidden_size = dims[-1]
        self.build_head(num_classes, global_pool, drop_rate, **dd)

    def final(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def drop_final(self) -> None:
        self.norm = nn.Identity().train(self.training)
