"""What every backbone here shares of timm's interface: the classifier, the image check, the files."""

import torch
from torch import Tensor, nn

from .weights import Official, StateDict, rename_official


class TimmModel(nn.Module):
    """Base of ``Backbone`` (a pyramid of maps) and ``Isotropic`` (one token grid).

    A subclass defines ``build_head``, ``pool_type``, ``forward_features`` and ``forward_head``.
    ``torch.compile``, ``torch.export`` and ``torch.jit.trace`` work, ``torch.jit.script``, which torch
    deprecates, does not.
    """

    in_chans: int
    num_classes: int
    num_features: int
    head_hidden_size: int
    drop_rate: float
    feature_info: list[dict]
    head: nn.Module
    official: Official | None = None  # the family's file format, of models that were made by name
    first_conv: str  # name of the convolution that reads the image
    feature_indices: int | tuple[int, ...]  # what features_only returns unless it is told

    @property
    def pool_type(self) -> str:
        """timm's name of the pooling before the classifier."""
        raise NotImplementedError

    def build_head(
        self,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Pooling, dropout and the classifier ``head``; num_classes=0 leaves the classifier out.

        Raises: ValueError, with the model unchanged, for a negative or fractional num_classes, a drop_rate
            outside [0, 1), a pooling that there is not, and a classifier without pooling.
        """
        raise NotImplementedError

    def fit_weights(self, weights: StateDict) -> StateDict:
        """Weights under our names, tables that depend on the image size brought to this model's size."""
        return weights

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """torch's step of ``load_state_dict``; the authors' names and shapes are taken too."""
        if self.official is not None:
            rename_official(state_dict, prefix, self.official, type(self).__name__)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier, nn.Linear, or nn.Identity when there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one of ``num_classes``; global_pool None keeps the pooling.

        Raises: ValueError, with the model unchanged; see ``build_head``.
        """
        pool = self.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        self.build_head(num_classes, pool, self.drop_rate, device=like.device, dtype=like.dtype)

    def check_image(self, x: Tensor) -> None:
        """A ValueError that names the shape, unless x is (B, in_chans, H, W) with B, H, W > 0."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or 0 in x.shape:
            raise ValueError(
                f"{type(self).__name__}: image must be (B, {self.in_chans}, H, W) with B, H, W > 0, "
                f"got {tuple(x.shape)}"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> what ``forward_head`` pools."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Output of ``forward_features`` -> logits (B, num_classes); pre_logits: the classifier's input."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
