"""LinFusion (arXiv 2409.02097): the self-attentions of SD-1.5, SD-2.1 and SD-XL UNets become linear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..method import Cost, Grid, Method, make_options
from .variants import published_for

if TYPE_CHECKING:
    from ..handle import LinearizedHandle

__all__ = ["METHOD", "LinFusionOptions"]

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class LinFusionOptions:
    """Options of ``linearize(unet, "linfusion")``.

    Args:
        projection_mid_dim: hidden width of the two MLPs. None: each module's own width; -1: no MLPs;
            "auto": what the weight files say, else what the published weights of this UNet's family have
            (the module's width for SD-1.5 and 2.1, a sixteenth of it for SD-XL); a table gives each module
            its own.
    """

    projection_mid_dim: int | str | Mapping[str, int | None] | None = AUTO

    def __post_init__(self) -> None:
        value = self.projection_mid_dim
        for one in value.values() if isinstance(value, Mapping) else (value,):
            right = one is None or one == AUTO or (isinstance(one, int) and not isinstance(one, bool))
            if not right or (isinstance(one, int) and one != -1 and one < 1):
                raise ValueError(
                    'linearize: projection_mid_dim must be "auto", None, -1 or a positive number, got '
                    f"{one!r}"
                )


class LinFusionMethod(Method):
    """Swaps every ``attn1`` of a UNet2DConditionModel."""

    name = "linfusion"
    models = ("UNet2DConditionModel",)

    def options(self, model: nn.Module, words: Mapping[str, Any]) -> LinFusionOptions:
        options = make_options(LinFusionOptions, self.name, words)
        if isinstance(options.projection_mid_dim, Mapping):
            check_table(options.projection_mid_dim, self.targets(model))
            return options
        value = options.projection_mid_dim
        if value == AUTO:
            published = published_for(model)
            scale = published.mid_scale if published else 1
            table = {n: None if scale == 1 else width(m) // scale for n, m in self.targets(model).items()}
        else:
            table = dict.fromkeys(self.targets(model), value)
        return LinFusionOptions(projection_mid_dim=table)

    def targets(self, model: nn.Module) -> dict[str, nn.Module]:
        from diffusers.models.attention_processor import Attention

        found = {n: m for n, m in model.named_modules() if isinstance(m, Attention) and "attn1" in n}
        for name, module in found.items():
            biased = isinstance(module.to_q.bias, Tensor)
            if module.is_cross_attention or biased or module.residual_connection:
                raise ValueError(
                    f"linearize: {name} must be a plain self-attention without biases on q, k and v, as in "
                    "Stable Diffusion's UNets; this one is not"
                )
        return found

    def attention(self, model: nn.Module, name: str, module: nn.Module) -> type:
        from .attention import linfusion_class

        return linfusion_class(type(module))

    def prepare(self, name: str, module: nn.Module, options: LinFusionOptions, init: str | None) -> None:
        from .attention import inherit, make_mlp, randomise

        hidden, like = options.projection_mid_dim[name], module.to_q.weight
        module.to_q_ = make_mlp(width(module), hidden, like)
        module.to_k_ = make_mlp(width(module), hidden, like)
        for mlp in (module.to_q_, module.to_k_):
            mlp.requires_grad_(like.requires_grad)
        inherit(module) if init == "inherit" else randomise(module)

    def source(self, model: nn.Module) -> str:
        published = published_for(model)
        if published is None:
            raise ValueError(
                "weights='official' needs a UNet of SD-1.5, SD-2.1 or SD-XL (cross_attention_dim 768, 1024 "
                f"or 2048), this one has {model.config.cross_attention_dim}"
            )
        return published.hub_id

    def read(
        self, model: nn.Module, source: str | Path, words: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from .convert import read_official

        tensors, hidden = read_official(self.targets(model), source)
        if words.get("projection_mid_dim", AUTO) != AUTO:
            asked = self.options(model, words).projection_mid_dim
            if dict(asked) != hidden:
                raise ValueError(
                    f"linearize: projection_mid_dim must be left to the weight files, got "
                    f"{words['projection_mid_dim']!r}, they have {sorted(set(map(str, hidden.values())))}"
                )
        return tensors, {"projection_mid_dim": hidden}

    def write(self, handle: LinearizedHandle, folder: Path) -> None:
        import diffusers
        from safetensors.torch import save_file

        from .convert import CONFIG, FILES, modules_list, to_official

        names, hidden = list(handle.modules), handle.options.projection_mid_dim
        state = to_official({k: t.cpu().contiguous() for k, t in handle.state_dict().items()}, names)
        save_file(state, folder / FILES[0], metadata={"format": "pt"})
        config = {"_class_name": "LinFusion", "_diffusers_version": diffusers.__version__}
        config["modules_list"] = modules_list(handle.modules, hidden)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    def grid(self, model: nn.Module, name: str, latent: Grid) -> Grid:
        """Downsampling halves with padding: odd sides round up."""
        levels = len(model.config.down_block_types)
        place, _, rest = name.partition(".")
        number = int(rest.split(".")[0]) if rest.split(".")[0].isdecimal() else 0
        level = {"down_blocks": number, "up_blocks": levels - 1 - number}.get(place, levels - 1)
        return -(-latent[0] // 2**level), -(-latent[1] // 2**level)

    def cost(self, model: nn.Module, name: str, module: nn.Module, grid: Grid, text: int) -> Cost:
        n, c = grid[0] * grid[1], width(module)
        d = c // module.heads
        mlps = [m for m in (module.to_q_, module.to_k_) if not isinstance(m, nn.Identity)]
        hidden = sum(m[0].out_features for m in mlps)
        projections = 2 * n * c * 4 * c
        mixing = 2 * 2 * n * c * d + 2 * 2 * n * c  # state and its normaliser, readout and its denominator
        return Cost(
            flops=projections + 2 * n * c * 2 * hidden + mixing,
            softmax_flops=projections + 2 * 2 * n * n * c,
            values=PEAK_TENSORS * c + max((m[0].out_features for m in mlps), default=0),
        )


def check_table(table: Mapping[str, Any], targets: Mapping[str, nn.Module]) -> None:
    """Raises: ValueError when a table of widths lacks a module or names another."""
    odd = [name for name in targets if name not in table] or [name for name in table if name not in targets]
    if odd:
        what = "has no entry for" if odd[0] in targets else "names"
        raise ValueError(
            f"linearize: projection_mid_dim must have an entry for each of the {len(targets)} swapped "
            f"modules and no other, it {what} {odd[0]}"
        )


PEAK_TENSORS = 5  # of the block's width: q, k, v, and two of the MLP's; measured 5.1 with a narrow MLP


def width(module: nn.Module) -> int:
    return module.to_q.in_features


METHOD = LinFusionMethod()
