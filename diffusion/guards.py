"""What a swapped model refuses, each with a message that says what to do instead."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

from torch import nn

HOOKED = (
    "{call} must come before offloading, caching or compiling, whose hooks sit on the modules that exist "
    "then; got a model with {what}. Call pipe.remove_all_hooks() (or build the pipeline again), then {call}, "
    "then switch them on"
)


class LinearizedModel:
    """Mixin of a swapped model's class."""

    ORIGINAL: type

    def _get_name(self) -> str:
        return f"Linearized{self.ORIGINAL.__name__}"

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: diffusers would load the files as a softmax model that holds linear weights."""
        raise ValueError(
            f"save_pretrained of a linearized {self.ORIGINAL.__name__} would be loaded as a softmax model "
            "with wrong weights. Save the swap by handle.save_pretrained(folder) and load it by "
            "linearize(pipe, method, weights=folder), or the whole pipeline by handle.save_pipeline(folder)"
        )

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Refused, for the same reason."""
        raise ValueError(
            f"push_to_hub of a linearized {self.ORIGINAL.__name__} would publish wrong weights for a softmax "
            "model. Use handle.push_to_hub(repo_id)"
        )

    def set_attn_processor(self, processor: Any) -> None:
        """As in diffusers; the swapped attentions keep theirs.

        Raises: ValueError when a dict names another processor for one of them.
        """
        from .swap import OwnProcessor

        own = {f"{n}.processor": m for n, m in self.named_modules() if isinstance(m, OwnProcessor)}
        if isinstance(processor, dict):
            for name, module in own.items():
                given = processor.get(name)
                if given is not None and not isinstance(given, module.PROCESSOR):
                    raise ValueError(
                        f"processor of {name.removesuffix('.processor')} must be a "
                        f"{module.PROCESSOR.__name__}, got {type(given).__name__}: the layer is swapped. "
                        "Call linzoo.diffusion.unlinearize(pipe) first"
                    )
            super().set_attn_processor(dict(processor))
            return
        super().set_attn_processor(
            {n: own[n].processor if n in own else processor for n in self.attn_processors}
        )

    def load_lora_adapter(self, *args: Any, **words: Any) -> Any:
        """As in diffusers, with a warning: the LoRA was learnt with softmax attention."""
        warnings.warn(
            "LoRA weights for the swapped attentions were learnt with softmax attention; their effect here "
            "is not the published one",
            UserWarning,
            stacklevel=2,
        )
        return super().load_lora_adapter(*args, **words)

    def enable_parallelism(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: diffusers' context parallelism splits softmax attention only."""
        raise ValueError(
            "enable_parallelism splits softmax attention and would miss the swapped layers. Use "
            "linzoo.diffusion.parallel.parallelize(pipe)"
        )


class LinearizedBlocks(nn.ModuleList):
    """A list of blocks with swapped attention; ControlNets and motion models are made by copying those."""

    def state_dict(self, *args: Any, **words: Any) -> Any:
        """As in torch, within the model's own.

        Raises: ValueError when asked for alone: a softmax model would get linear weights.
        """
        if not args and words.get("destination") is None:
            raise ValueError(
                "the blocks of a linearized model must not be copied into a softmax one, as from_unet and "
                "from_transformer do. Call them inside `with handle.softmax():`, where handle is what "
                "linearize returned or linzoo.diffusion.linearized(pipe). All weights: state_dict() of the "
                "whole model"
            )
        return super().state_dict(*args, **words)


def check_unhooked(model: nn.Module, call: str = "linearize") -> None:
    """Raises: ValueError when something else has wrapped the model already."""
    what = None
    if type(model).__name__ == "OptimizedModule":
        what = "torch.compile on it"
    elif getattr(model, "_parallel_config", None) is not None:
        what = "context parallelism"
    elif hasattr(model, "_parallel"):
        raise ValueError(f"{call}: the model runs in parallel bands; close() the handle of parallelize first")
    for module in model.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            what = f"torch.compile on its {type(module).__name__}"
        elif hasattr(module, "_hf_hook"):
            what = "offload hooks of accelerate"
        elif getattr(getattr(module, "_diffusers_hook", None), "hooks", None):
            what = f"hooks of diffusers ({', '.join(module._diffusers_hook.hooks)})"
        if what:
            raise ValueError(HOOKED.format(what=what, call=call))


def check_plain(names: dict[str, nn.Module]) -> None:
    """Raises: ValueError when the modules that would be swapped hold adapters or quantised weights."""
    for name, module in names.items():
        processor = type(module.processor).__name__
        if isinstance(module.processor, nn.Module) or "PAG" in processor:
            raise ValueError(
                f"{name} has a {processor}, which the swap would lose. Unload it first "
                "(pipe.unload_ip_adapter(), a pipeline without PAG), then linearize"
            )
        for child_name, child in module.named_modules():
            where = f"{name}.{child_name}"
            if hasattr(child, "lora_A") or hasattr(child, "base_layer"):
                raise ValueError(
                    f"LoRA weights lie on {where} and would be lost in the swap. Call pipe.fuse_lora() and "
                    "pipe.unload_lora_weights() to keep their effect, or linearize first and load them after"
                )
            weight = getattr(child, "weight", None)  # a method on torch's own quantised layers
            stored = weight is None or (type(weight) is nn.Parameter and weight.dtype.is_floating_point)
            if not stored or (isinstance(child, nn.Linear) and type(child) is not nn.Linear):
                raise ValueError(
                    f"{where} must be a plain torch.nn.Linear, got {type(child).__module__}."
                    f"{type(child).__name__} with a weight of {getattr(weight, 'dtype', type(weight))}: "
                    "quantised layers cannot be swapped. Linearize the unquantised model, then quantise it"
                )


def check_unadapted(modules: dict[str, nn.Module]) -> None:
    """Raises: ValueError when LoRA weights lie on swapped modules: they would go with the linear layers."""
    for name, module in modules.items():
        if any(hasattr(child, "lora_A") or hasattr(child, "base_layer") for child in module.modules()):
            raise ValueError(
                f"LoRA weights lie on {name}: call pipe.unload_lora_weights() first, then unlinearize"
            )
