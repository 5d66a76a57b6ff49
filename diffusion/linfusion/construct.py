"""The authors' entry point under its own name, for scripts written for their package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..handle import LinearizedHandle
from ..linearize import linearize


class LinFusion:
    """``LinFusion.construct_for(pipeline)``, as in the authors' package; ``linearize`` says the same."""

    @staticmethod
    def construct_for(
        pipeline: Any = None,
        unet: Any = None,
        load_pretrained: bool = True,
        pretrained_model_name_or_path: str | Path | None = None,
    ) -> LinearizedHandle:
        """Swap a pipeline's UNet, or ``unet``, and load weights.

        Args:
            load_pretrained: False leaves them untrained, as the authors' code starts training.
            pretrained_model_name_or_path: folder or hub id; None: the published ones for this UNet, found
                from its config.
        Raises: ValueError when neither or both of pipeline and unet are given, or no weights fit.
        """
        if (pipeline is None) == (unet is None):
            raise ValueError("LinFusion.construct_for: exactly one of pipeline and unet must be given")
        weights = (pretrained_model_name_or_path or "official") if load_pretrained else None
        words = {} if load_pretrained else {"init": "random", "projection_mid_dim": None}
        return linearize(unet if pipeline is None else pipeline, "linfusion", weights=weights, **words)
