"""Parts that the vision families share; tokens are (B, H, W, C) images."""

from .attention import SoftmaxMixer
from .depthwise import DepthwiseConv, ResidualDepthwiseConv
from .ffn import ConvFfn
from .gated_mixer import GatedMixer
from .layer_scale import LayerScale
from .mixers import check_listed, check_mixer_name, make_mixer, mixer_names, register_mixer
from .neck import Neck
from .rope import Rope, rope_table, rotate
from .stem import ConvStem, Downsample

__all__ = [
    "ConvFfn",
    "ConvStem",
    "DepthwiseConv",
    "Downsample",
    "GatedMixer",
    "LayerScale",
    "Neck",
    "ResidualDepthwiseConv",
    "Rope",
    "SoftmaxMixer",
    "check_listed",
    "check_mixer_name",
    "make_mixer",
    "mixer_names",
    "register_mixer",
    "rope_table",
    "rotate",
]
