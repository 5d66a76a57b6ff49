"""Small blocks of every operator with filled weights."""

import torch
from torch import nn

from linzoo.pointcloud.lion.operators import make_operator

from ..parity_fill import fill

CHANNELS = 16
WORDS: dict[str, dict] = {
    "retnet": {"heads": 2},
    "mamba": {"state": 4},
    "rwkv": {"heads": 2, "mix_rank": 4, "decay_rank": 4},
    "mlstm": {},
    "ttt": {"heads": 2},
    "linear": {"heads": 2},
    "gated": {"heads": 2, "rank": 4},
}


def filled(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The block in eval mode with weights drawn by their names."""
    model.load_state_dict(fill({key: list(x.shape) for key, x in model.state_dict().items()}))
    return model.to(dtype).eval()


def small(
    name: str, dtype: torch.dtype = torch.float64, layer_id: int = 0, drop_path: float = 0.0, **words
) -> nn.Module:
    words = WORDS[name] | words
    return filled(make_operator(name, CHANNELS, layer_id, 4, drop_path=drop_path, **words), dtype)


def tokens(groups: int, count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(groups, count, CHANNELS, dtype=torch.float64).to(dtype)
