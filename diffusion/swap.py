"""The swap itself: classes change in place, modules stay the objects they were, everything can be undone.

An attention module gets a subclass of its class, its trained children are replaced by clones and the
originals are kept. The model gets a subclass too, which refuses what would go wrong without a word. Names and
references from outside stay valid, and ``copy.deepcopy`` copies a swapped model with its record.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .guards import LinearizedBlocks, LinearizedModel

if TYPE_CHECKING:
    from .method import Method

RECORD = "_linzoo_swap"  # plain attribute of a swapped model
TABLES = ("_modules", "_parameters", "_buffers")  # where a module keeps what it registers


class OwnProcessor:
    """Mixin of a swapped attention class: its processor is its own, and whoever replaces it is told.

    The processor is stateless and made without arguments, so diffusers may re-create it (IP-Adapter does);
    parameters and options lie on the module.
    """

    PROCESSOR: ClassVar[type]
    METHOD: ClassVar[str]

    @property
    def processor(self) -> Any:
        return self.__dict__["own_processor"]

    def __setattr__(self, name: str, value: Any) -> None:
        """A processor that is a module would pass a property by: nn.Module registers it as a child."""
        if name == "processor":
            self.set_processor(value)
        else:
            super().__setattr__(name, value)

    def set_processor(self, processor: Any) -> None:
        """Raises: ValueError for a foreign one."""
        if not isinstance(processor, self.PROCESSOR):
            what = type(processor).__name__
            means = "perturbed-attention guidance" if "PAG" in what else "another attention"
            raise ValueError(
                f"processor must be a {self.PROCESSOR.__name__}, got {what}: {means} would replace the "
                f"{self.METHOD} attention of this layer. Choose layers that are not swapped, or call "
                "linzoo.diffusion.unlinearize(pipe) first"
            )
        self.__dict__["own_processor"] = processor

    def get_processor(self, return_deprecated_lora: bool = False) -> Any:
        return None if return_deprecated_lora else self.processor

    # These choose among softmax implementations or fuse projections for one: nothing to choose here.
    def set_attention_slice(self, slice_size: int | None) -> None:
        pass

    def set_use_memory_efficient_attention_xformers(self, *_: Any, **__: Any) -> None:
        pass

    def set_use_xla_flash_attention(self, *_: Any, **__: Any) -> None:
        pass

    def set_use_npu_flash_attention(self, *_: Any, **__: Any) -> None:
        pass

    def fuse_projections(self, *_: Any, **__: Any) -> None:
        pass

    def unfuse_projections(self) -> None:
        pass


@dataclass(slots=True)
class SwappedModule:
    """What one attention module was."""

    module: nn.Module
    cls: type
    children: dict[str, nn.Module]  # originals, on the CPU unless on the meta device
    attributes: dict[str, Any]  # plain attributes before the swap
    added: tuple[str, ...] = ()  # names that the swap added


@dataclass(slots=True)
class Swap:
    """What a swapped model was, and what it is now; kept on the model as a plain attribute."""

    method: str
    options: Any
    cls: type
    modules: dict[str, SwappedModule] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)  # weights outside them that loading replaced


def swap_model(model: nn.Module, method: Method, options: Any, init: str | None) -> Swap:
    """Swap every target. Anything that fails on the way leaves the model as it was."""
    swap = Swap(method.name, options, type(model))
    drop_stale_forward(model)
    try:
        for name, module in method.targets(model).items():
            drop_stale_forward(module)
            cls = method.attention(model, name, module)
            record = swap.modules[name] = set_aside(module, method.trained(module))
            before = set(names_of(module))
            module.__dict__["own_processor"] = cls.PROCESSOR()
            module.__class__ = cls
            try:
                method.prepare(name, module, options, init)
            finally:
                record.added = tuple(name for name in names_of(module) if name not in before)
        model.__class__ = linearized_class(type(model), method.model_mixin(model))
        guard_blocks(model)
        setattr(model, RECORD, swap)
        method.finish(model, options)
    except BaseException:
        undo(model, swap, method)
        raise
    return swap


def set_aside(module: nn.Module, trained: tuple[str, ...]) -> SwappedModule:
    """Clones take the place of the trained children; the originals go to the CPU."""
    plain = {k: v for k, v in module.__dict__.items() if not k.startswith("_")}
    record = SwappedModule(module, type(module), {}, plain)
    for name in trained:
        original = getattr(module, name)
        setattr(module, name, copy.deepcopy(original))
        record.children[name] = original if on_meta(original) else original.to("cpu")
    return record


def undo(model: nn.Module, swap: Swap, method: Method) -> None:
    """Everything as it was; originals come back in the device and dtype that the clones have now."""
    if RECORD in model.__dict__:
        method.restore(model)
        delattr(model, RECORD)
    drop_stale_forward(model)
    model.__class__ = swap.cls
    for module in model.modules():
        if type(module) is LinearizedBlocks:
            module.__class__ = nn.ModuleList
    put_back(model, swap.others)
    for record in swap.modules.values():
        module, training = record.module, record.module.training
        drop_stale_forward(module)
        for name, original in record.children.items():
            like = next(getattr(module, name).parameters(), None)
            if like is not None and not on_meta(original):
                original.to(like.device, like.dtype)
            setattr(module, name, original)
        for name in record.added:
            module.__delattr__(name) if name in names_of(module) else None
        module.__class__ = record.cls
        module.__dict__.update(record.attributes)
        module.train(training)


def guard_blocks(model: nn.Module) -> None:
    """Lists of blocks with swapped attention refuse to be copied into a softmax model."""
    for module in model.modules():
        if type(module) is nn.ModuleList and any(isinstance(m, OwnProcessor) for m in module.modules()):
            module.__class__ = LinearizedBlocks


def drop_stale_forward(module: nn.Module) -> None:
    """Removed hooks leave the class's forward on the module, where it would hide that of another class."""
    forward = module.__dict__.get("forward")
    if getattr(forward, "__func__", None) is type(module).forward:
        del module.__dict__["forward"]


@contextmanager
def suspended(model: nn.Module, swap: Swap, method: Method) -> Iterator[None]:
    """The softmax model for a while: what is saved or copied inside is the original."""
    kept = [
        (r.module, type(r.module), dict(r.module.__dict__), {t: dict(getattr(r.module, t)) for t in TABLES})
        for r in swap.modules.values()
    ]
    others = {name: model.get_parameter(name).detach().clone() for name in swap.others}
    cls = type(model)
    undo(model, swap, method)
    try:
        yield
    finally:
        for module, linear, attributes, tables in kept:
            module.__class__ = linear
            for table, entries in tables.items():
                getattr(module, table).clear()
                getattr(module, table).update(entries)
            module.__dict__.update({k: v for k, v in attributes.items() if k not in TABLES})
        for record in swap.modules.values():
            for original in record.children.values():
                if not on_meta(original):
                    original.to("cpu")
        put_back(model, others)
        model.__class__ = cls
        guard_blocks(model)
        setattr(model, RECORD, swap)
        method.finish(model, swap.options)


@torch.no_grad()
def put_back(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        model.get_parameter(name).copy_(tensor)


def names_of(module: nn.Module) -> list[str]:
    return [*module.__dict__, *(name for table in TABLES for name in getattr(module, table))]


def on_meta(module: nn.Module) -> bool:
    return any(p.device == torch.device("meta") for p in module.parameters())


@cache
def linearized_class(cls: type, mixin: type | None) -> type:
    """The subclass of a diffusers model class for swapped models.

    Its ``__name__`` stays the original's: diffusers looks models up by it (LoRA scales, model index).
    """
    bases = (LinearizedModel, cls) if mixin is None else (mixin, LinearizedModel, cls)
    words = {"__module__": __name__, "__qualname__": f"Linearized{cls.__name__}", "ORIGINAL": cls}
    return type(cls.__name__, bases, words)
