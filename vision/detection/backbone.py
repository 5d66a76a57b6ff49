"""``LinzooBackbone``: any timm model, ours included, as a backbone of mmdetection."""

from collections.abc import Sequence

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import backbone_weights
from .body import check_model_name, family_of, inner, make_body
from .freezing import freeze, frozen_modules

# The authors' detectors put a LayerNorm on every output of the backbone: its eps. No other family's has one.
OUT_NORM_EPS = {"ravlt": 1e-6, "mala": 1e-6, "l2vit": 1e-5}

ARGUMENTS = (
    "model_name", "out_indices", "out_norms", "frozen_stages", "norm_eval", "with_cp", "pretrained",
    "init_cfg",
)  # fmt: skip


@MODELS.register_module()
class LinzooBackbone(BaseModule):
    """Maps of the stages of a timm model, finest first, each (B, C_i, H_i, W_i), for any image size.

    Args:
        model_name: of a model in timm's registry, ours included: "ravlt_tiny", "resnet18".
        out_indices: stages whose maps are returned, counted from 0; None: those that timm gives.
        out_norms: LayerNorm over the channels of every map, by its eps; the stages that follow get the map
            without it. "family": as the authors' detectors have it (RAVLT and MALA 1e-6, L2ViT 1e-5, others
            none); None: none.
        frozen_stages: -1: none; 0: the stem; n: the stem and n stages, which then stay in eval mode.
        norm_eval: keep the statistics of every BatchNorm, SyncBatchNorm included, as they are. The RAVLT and
            MALA detectors were published with this flag on and SyncBatchNorm, which their flag passes over:
            their statistics were trained. So False is what was published.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        pretrained: True for the weights that timm knows of, or a file: the authors' or ours, of a classifier
            or of a detector. Read by ``init_weights``, so testing reads none.
        init_cfg: mmengine's; ``dict(type="Pretrained", checkpoint=FILE)`` is the same as ``pretrained=FILE``.
        model_kwargs: of the model: ``drop_path_rate=0.1``, ``mixers="linear"``, ``in_chans=1``.
    Raises: ValueError for an unknown model (naming the nearest) or stage and for values out of range;
        TypeError for an argument that neither this class nor the model has, naming the nearest.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        out_norms: float | str | None = "family",
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: bool | str = False,
        init_cfg: dict | list[dict] | None = None,
        **model_kwargs,
    ) -> None:
        check_model_name(model_name)
        eps = out_norm_eps(out_norms, model_name)
        backbone_weights.check_source(model_name, pretrained, init_cfg, model_kwargs)
        super().__init__(init_cfg)
        self.model_name, self.pretrained = model_name, pretrained
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.model_kwargs = {**model_kwargs, "out_indices": out_indices}

        self.body = make_body(model_name, own_arguments=ARGUMENTS, **self.model_kwargs)
        info = self.body.feature_info
        self.out_indices = tuple(info.out_indices)
        self.out_norms = nn.ModuleDict()  # by stage, as in the authors' files
        if eps is not None:
            for index, channels in zip(self.out_indices, info.channels(), strict=True):
                self.out_norms[str(index)] = nn.LayerNorm(channels, eps=eps)
        self._frozen = frozen_modules(self.body, frozen_stages)
        freeze(self.body, frozen_stages)
        if with_cp:
            model = inner(self.body)
            if not hasattr(model, "set_grad_checkpointing"):
                raise ValueError(f"LinzooBackbone: with_cp must be False, {model_name} cannot checkpoint")
            model.set_grad_checkpointing(True)
        self.train(self.training)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of every map: ``in_channels`` of the neck."""
        return tuple(self.body.feature_info.channels())

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Pixels of the image between neighbours in every map."""
        return tuple(self.body.feature_info.reduction())

    def init_weights(self) -> None:
        """Loads the weights of ``pretrained`` or ``init_cfg``; without them the model stays as it was made.

        Raises: FileNotFoundError; ValueError for a file that does not fit the model.
        """
        source = backbone_weights.source_of(self.pretrained, self.init_cfg)
        if source is None or self.is_init:
            super().init_weights()
            return
        backbone_weights.load(self, source)
        self.is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """torch's and mmengine's step of loading; the backbone of an authors' detector is taken too."""
        backbone_weights.rename_in_place(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def train(self, mode: bool = True) -> "LinzooBackbone":
        """As in torch, save for what ``frozen_stages`` and ``norm_eval`` keep in eval mode."""
        super().train(mode)
        for module in getattr(self, "_frozen", ()):
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_chans, H, W) -> maps of ``out_indices``, each (B, C_i, H_i, W_i)."""
        maps = self.body(x)
        if str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        if self.out_norms:
            norms = (self.out_norms[str(i)] for i in self.out_indices)
            maps = [over_channels(norm, y) for norm, y in zip(norms, maps, strict=True)]
        return tuple(y.contiguous() for y in maps)  # mmcv's compiled RoIAlign reads NCHW memory unseen


def over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm over dimension 1 of (B, C, H, W)."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def out_norm_eps(out_norms: float | str | None, model_name: str) -> float | None:
    """The eps of the norms on the outputs, None for no norms."""
    if out_norms == "family":
        return OUT_NORM_EPS.get(family_of(model_name))
    number = isinstance(out_norms, (int, float)) and not isinstance(out_norms, bool)
    if out_norms is None or (number and out_norms > 0):
        return out_norms
    raise ValueError(f"LinzooBackbone: out_norms must be 'family', None or an eps above 0, got {out_norms!r}")
