"""The processes that train together: torchrun's, accelerate's or SLURM's, as the environment says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so, world_info_from_env
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """This process's device and place among ``size`` processes."""

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def primary(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes, the same bits in each."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; all processes must call it."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def lost_another(self, error: RuntimeError) -> bool:
        """Whether ``error`` is torch's for a process that has gone; gloo's has no class of its own."""
        return self.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def join_world(name: str) -> World:
    """Join the other processes, if the environment says that there are any: NCCL on CUDA, gloo on the CPU.

    Args:
        name: the device; "auto" for an accelerator where there is one, else the CPU.
    Raises: ValueError when there is no such device here.
    """
    from ..predict import usable_device

    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = "cpu" if found is None else found.type
    local, _, size = world_info_from_env()
    module = None if name == "cpu" or size == 1 else torch.get_device_module(name.partition(":")[0])
    if module is not None and local >= module.device_count():
        raise ValueError(
            f"--device {name} must have a device for every process of a machine, here are "
            f"{module.device_count()}, process {local} has none"
        )
    usable_device(name if module is None else f"{name.partition(':')[0]}:{local}")
    made = init_distributed_device_so(device=name)
    return World(torch.device(made["device"]), made["global_rank"], made["local_rank"], made["world_size"])


def leave_world() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
