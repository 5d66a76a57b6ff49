"""MALA checkpoints: the authors' files to our names and back."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .. import official
from ..variant import head_dims_of
from ..weights import Official, filter_checkpoint
from .variants import VARIANTS

NAMES = official.OfficialNames(pos1="pos", qkvg="qkvo", proj="proj", conv_1x1=True)


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official keys and shapes to ours; see ``linzoo.vision.official.from_official``."""
    return official.from_official(state_dict, NAMES)


def to_official(
    state_dict: Mapping[str, Tensor], head_dims: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Ours to official keys and shapes; ``head_dims``: of each stage, None for those of the variant."""
    return official.to_official(state_dict, NAMES, head_dims or head_dims_of(state_dict, VARIANTS))


OFFICIAL = Official(marks=official.MARKS, rename=from_official)


def checkpoint_filter_fn(state_dict: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """For timm: a checkpoint in the official format or ours, wrapped or not, to what ``model`` loads."""
    return filter_checkpoint(state_dict, model, OFFICIAL)
