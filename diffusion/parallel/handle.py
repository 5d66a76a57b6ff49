"""``parallelize``: one image, its rows spread over processes, the same numbers as one process."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..guards import check_unhooked
from ..linearize import linearized, parts_of
from .agree import agree
from .bands import check_rows
from .link import join
from .place import PLACE, Call, Place, enter, leave
from .plan import Plan
from .report import ParallelReport

FAMILIES = {"linfusion": ("UNet2DConditionModel", "unet"), "clear": ("FluxTransformer2DModel", "flux")}


class ParallelHandle:
    """A parallel model; a context manager that ends in ``close()``.

    Attributes:
        model: the UNet or transformer.
        pipe: the pipeline, or None.
    """

    def __init__(self, model: nn.Module, pipe: Any, call: Call, plan: Plan) -> None:
        self.model, self.pipe = model, pipe
        self._call, self._plan = call, plan

    def __enter__(self) -> ParallelHandle:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        place = self.model.__dict__.get(PLACE)
        return place is None or place.call is not self._call

    def close(self) -> None:
        """The model is this process's own again; nothing is sent. Closing twice does nothing.

        Raises: ValueError when offload or cache hooks were put on the parallel model and are still there.
        """
        if self.closed:
            return
        check_forwards(self.model, self._plan)  # hooks that were put on since then hold the parallel forward
        for target in self._plan.targets:
            leave(target.module)
        leave(self.model)

    def report(self) -> ParallelReport:
        """What this rank sent in the last model call, layer by layer."""
        link = self._call.link
        return ParallelReport(link.rank, link.world, self._call.last, self._call.count, link.traffic.layers())


def parallelize(
    pipe_or_model: Any, group: dist.ProcessGroup | None = None, rows: Sequence[int] | None = None
) -> ParallelHandle:
    """Spread every call of a linearized model over the processes of ``group``, exactly.

    Every process holds the whole model, calls it (or the pipeline) with the same arguments, works on a band
    of rows of the image, and gets the whole result. For inference: calls under gradients are refused.

    Args:
        pipe_or_model: a pipeline, UNet or FLUX transformer after ``linearize`` with "linfusion" or "clear".
            Every process of the group makes the same calls, this one too, in the same order.
        group: of ``torch.distributed``; None: all processes.
        rows: of each rank, in latent rows (UNet) or rows of image tokens (FLUX), for one image size. None:
            shared evenly at every size.
    Returns: a handle: ``close()``, ``report()``.
    Raises: ValueError, TypeError or RuntimeError that names what cannot be done; the model is then unchanged.
        A size that does not fit raises in the call, on every rank.
    """
    pipe, model = parts_of(pipe_or_model)
    if PLACE in model.__dict__:
        raise ValueError("parallelize: the model must not be parallel already; close() its handle first")
    handle = linearized(model)
    link = join(group)
    given = check_rows(rows, link.world)
    check_unhooked(model, "parallelize")
    plan = plan_for(model, handle)
    check_forwards(model, plan)
    check_same(model, plan, given, link)
    call = Call(link, given)
    for target in plan.targets:
        enter(target.module, target.mixin, Place(call, target.name, target.level))
    enter(model, plan.model, Place(call, ""))
    return ParallelHandle(model, pipe, call, plan)


def plan_for(model: nn.Module, handle: Any) -> Plan:
    """Raises: ValueError for a model or method that has no parallel form."""
    method = None if handle is None else handle.method.name
    if method is None and type(model).__name__ == "UNet2DConditionModel":
        method = "linfusion"  # whose plan names the softmax attentions
    kind, part = FAMILIES.get(method, (None, ""))
    if kind != type(model).__name__:
        how = f"with method={method!r}" if method else "that is not linearized"
        pairs = " or ".join(f'{kind} after linearize(..., "{name}")' for name, (kind, _) in FAMILIES.items())
        raise ValueError(f"parallelize: pipe_or_model must be a {pairs}, got a {type(model).__name__} {how}")
    return import_module(f".{part}", __package__).plan(model, {} if handle is None else handle.modules)


def check_forwards(model: nn.Module, plan: Plan) -> None:
    """Raises: ValueError where ``forward`` was set on the object: there the class would not count."""
    for name, module in [("the model", model), *((t.name, t.module) for t in plan.targets)]:
        own = module.__dict__.get("forward")
        if own is not None and getattr(own, "__func__", None) is not type(module).forward:
            raise ValueError(
                f"parallelize: {name} must have the forward of its class, got one set on the object by "
                "hooks or a patch; remove them first"
            )


def check_same(model: nn.Module, plan: Plan, rows: tuple[int, ...] | None, link: Any) -> None:
    """Raises: ValueError, on every rank, when ranks hold different models or ask for different bands."""
    parameters = [p for p in model.parameters() if p.device.type != "meta" and p.numel()]
    device = parameters[0].device if parameters else torch.device("cpu")
    exact = {f"rows[{i}]": -1 if rows is None else rows[i] for i in range(link.world)}
    exact |= {"the number of changed modules": len(plan.targets), "the number of parameters": len(parameters)}
    exact |= {"the bytes of the parameters": sum(p.numel() * p.element_size() for p in parameters)}
    ends = [p.detach().flatten()[-1].double().cpu() for p in parameters if p.dtype.is_floating_point]
    exact["a checksum of the weights"] = float(torch.stack(ends).sum()) if ends else 0.0
    agree(link, exact, {}, device)
