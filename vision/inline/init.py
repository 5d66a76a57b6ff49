"""How the four InLine models start."""

import torch
from torch import nn


def start_weights(model: nn.Module) -> None:
    """Linears, tables and the class token normal of std 0.02, biases 0; convolutions as torch starts them.

    The authors cut the normal at +-2, a hundred deviations out: the cut never acts. Norms are at 1 and 0, the
    predicted kernels' generators as torch starts convolutions.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "cls_token", "relative_position_bias_table")):
            with torch.no_grad():
                parameter.normal_(std=0.02)
