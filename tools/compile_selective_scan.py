"""The launches of ``selective_scan`` that ``linzoo kernel-report`` compiles, by the model that makes them.

As ``compile_facts`` does for linear attention: the launchers make them on meta tensors, so tiles, constants
and alignment are those that ship. Importing this file imports neither torch nor triton.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .compile_facts import ARCHS, DTYPES, compile_launch

ROLES = ("sums", "between", "outputs", "adjoint_sums", "adjoint_between", "gradients")


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model calls the op, its channels and states a channel."""

    channels: int
    states: int
    segments: int | None = None
    reverse: bool = False


MODELS = {
    "mamba": Model(channels=1536, states=16),
    "lion_mamba": Model(channels=256, states=16, segments=96, reverse=True),
}


@dataclass(frozen=True, order=True)
class Job:
    multiplies: ClassVar[bool] = False  # no matrix products, so no tensor cores
    model: str
    dtype: str
    role: str
    arch: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.dtype} {self.role} {self.arch}"


def jobs(models=tuple(MODELS), dtypes=DTYPES, archs=ARCHS) -> list[Job]:
    """The by-model list: models, dtypes, device kernels, architectures."""
    return [
        Job(model, dtype, role, arch)
        for arch in archs
        for model in models
        for dtype in dtypes
        for role in ROLES
    ]


def thresholds_path() -> Path:
    from ..kernels.selective_scan import triton_tiles

    return Path(triton_tiles.__file__).with_name("thresholds.json")


def record(job: Job) -> Any:
    """The Launch of one device kernel: two rows of 4,096 tokens, or one of packed segments; B and C fused."""
    import torch

    from ..kernels.linear_attn import triton_plan
    from ..kernels.selective_scan import triton_launch
    from ..kernels.selective_scan.eager import Inputs

    model = MODELS[job.model]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job.dtype]
    batch, tokens, channels, states = 1 if model.segments else 2, 4096, model.channels, model.states

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    u = empty(batch, tokens, channels, dtype=dtype)
    B, C = empty(batch, tokens, 2 * states, dtype=dtype).split(states, -1)
    cu = empty(model.segments + 1, dtype=torch.int32) if model.segments else None
    start = empty(model.segments or batch, channels, states)
    delta, A, D = empty(batch, tokens, channels), empty(channels, states), empty(channels)
    x = Inputs(u, delta, A, B, C, D, start if model.segments else None, cu, model.reverse)
    with triton_plan.recording(job.arch) as launches:
        _, _, kept = triton_launch.forward(x, True)
        triton_launch.backward(u, start, x, kept)
    return launches[ROLES.index(job.role)]


def measure(job: Job) -> dict[str, Any]:
    """Compiles one job and returns its facts."""
    launch = record(job)
    return {**compile_launch(launch, job.arch), "tile": launch.tile.name}
