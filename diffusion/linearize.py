"""``linearize``: a softmax model of diffusers becomes a linear one, in place, and back."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .guards import check_plain, check_unhooked
from .handle import LinearizedHandle
from .method import Method
from .swap import RECORD, Swap, swap_model, undo
from .weights import check_names, load_tensors

METHODS = ("linfusion", "clear", "lit")
PARTS = ("transformer", "unet")  # of a pipeline, the denoiser


def linearize(
    pipe_or_model: Any,
    method: str,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    init: str | None = None,
    **options: Any,
) -> LinearizedHandle:
    """Replace softmax self-attention by attention whose cost is linear in the number of pixels, in place.

    The pipeline is used as before. Call it before offloading, caching or compiling is switched on.

    Args:
        pipe_or_model: a diffusers pipeline, or its UNet or transformer.
        method: "linfusion" (UNet2DConditionModel), "clear" (FluxTransformer2DModel, SD3Transformer2DModel,
            DiTTransformer2DModel) or "lit" (DiTTransformer2DModel, PixArtTransformer2DModel).
        weights: trained weights: a folder or .safetensors file, a hub id, tensors by name, or "official",
            the published ones for this model. None: untrained, not the softmax model's pictures.
        init: "inherit" (the softmax model's projections, the default) or "random"; refused by "lit", which
            has the option ``inherit``.
        options: of the method; each card lists them.
    Returns: a handle: ``unlinearize()``, ``save_pretrained(folder)``, ``save_pipeline(folder)``,
        ``report()``.
    Raises: ValueError or TypeError that names what cannot be done; the model is then unchanged.
    """
    pipe, model = parts_of(pipe_or_model)
    family = method_named(method)
    check_model(model, family)
    init = check_init(family, init)
    check_unhooked(model)
    targets = family.targets(model)
    if not targets:
        raise ValueError(f"linearize: {type(model).__name__} has no self-attention that {method} replaces")
    check_plain(targets)
    tensors, found = read_weights(family, model, weights, options)
    swap = swap_model(model, family, family.options(model, {**found, **options}), init)
    try:
        if isinstance(weights, Mapping):
            own = {name: x.shape for name, x in LinearizedHandle(model).state_dict().items()}
            check_names({name: x for name, x in tensors.items() if name in own}, own, "the given tensors")
        if tensors is not None:
            load_tensors(model, swap, tensors)
    except BaseException:
        undo(model, swap, family)
        raise
    return LinearizedHandle(model, pipe)


def unlinearize(pipe_or_model: Any) -> None:
    """Give a linearized pipeline or model its softmax attention and its weights back, bit for bit.

    Raises: ValueError when it is not linearized, or when hooks or LoRA weights sit on swapped layers.
    """
    handle = linearized(pipe_or_model)
    if handle is None:
        raise ValueError("unlinearize: pipe_or_model must be linearized, got one that is not")
    handle.unlinearize()


def linearized(pipe_or_model: Any) -> LinearizedHandle | None:
    """The handle of a linearized pipeline or model (also of a deep copy of one), None for any other."""
    pipe, model = parts_of(pipe_or_model)
    return LinearizedHandle(model, pipe) if RECORD in model.__dict__ else None


def method_named(name: str) -> Method:
    """Raises: ValueError for a name that is no method."""
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"linearize: method must be one of {METHODS}, got {name!r}{hint}")
    return import_module(f".{name}", __package__).METHOD


def parts_of(pipe_or_model: Any) -> tuple[Any, nn.Module]:
    """(pipeline or None, denoiser). Raises: TypeError."""
    if isinstance(pipe_or_model, nn.Module):
        return None, pipe_or_model
    for part in PARTS:
        model = getattr(pipe_or_model, part, None)
        if isinstance(model, nn.Module):
            return pipe_or_model, model
    raise TypeError(
        "linearize: pipe_or_model must be a diffusers pipeline with a unet or transformer, or such a model; "
        f"got {type(pipe_or_model).__name__}"
    )


def check_model(model: nn.Module, method: Method) -> None:
    if RECORD in model.__dict__:
        swap: Swap = model.__dict__[RECORD]
        raise ValueError(
            f"linearize: the model is linearized already (method={swap.method!r}). Call unlinearize first"
        )
    if type(model).__name__ == "OptimizedModule":
        check_unhooked(model)
    if type(model).__name__ not in method.models:
        fits = [name for name in METHODS if type(model).__name__ in method_named(name).models]
        hint = f"; method={fits[0]!r} takes it" if fits else ""
        raise ValueError(
            f"linearize: method={method.name!r} takes {', '.join(method.models)}, got "
            f"{type(model).__name__}{hint}"
        )


def check_init(method: Method, init: str | None) -> str | None:
    if not method.inits:
        if init is not None:
            raise ValueError(
                f"linearize: init is not used by method={method.name!r}, got {init!r}; use inherit="
            )
        return None
    init = "inherit" if init is None else init
    if init not in method.inits:
        raise ValueError(f"linearize: init must be one of {method.inits}, got {init!r}")
    return init


def read_weights(
    method: Method, model: nn.Module, weights: Any, words: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor] | None, dict[str, Any]]:
    """Tensors by the model's parameter names, and options that the files settle."""
    if weights is None:
        return None, {}
    if isinstance(weights, Mapping):
        return weights, {}
    if not isinstance(weights, (str, Path)):
        raise TypeError(
            "linearize: weights must be a path, a hub id, tensors by name or None, got "
            f"{type(weights).__name__}"
        )
    return method.read(model, method.source(model) if weights == "official" else weights, words)
