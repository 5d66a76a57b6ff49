"""The launches of the sparse convolutions and segment sums that ``linzoo kernel-report`` compiles.

As ``compile_facts`` does for linear attention: the launchers make them on meta tensors, so tiles, constants
and alignment are those that ship. Importing this file imports neither torch nor triton.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compile_facts import ARCHS, DTYPES, compile_launch

DENSE = ("forward", "input_gradient", "weight_gradient")
DEPTHWISE = ("depthwise_forward", "depthwise_weight_gradient")


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model calls the ops: kernel sizes (z, y, x), channels (in, out), device kernels."""

    roles: tuple[str, ...]
    kernels: tuple[tuple[int, int, int], ...] = ((3, 3, 3),)
    widths: tuple[tuple[int, int], ...]


MODELS = {
    "lion_conv": Model(roles=DENSE, widths=((64, 64), (128, 128))),
    "scatterformer_conv": Model(roles=DEPTHWISE, kernels=((3, 3, 3), (1, 1, 13)), widths=((32, 32),)),
    "segment_sum": Model(
        roles=("segment_sum", "segment_sum_pieces"), kernels=((1, 1, 1),), widths=((128, 128),)
    ),
}


@dataclass(frozen=True, order=True)
class Job:
    model: str
    kernel: tuple[int, int, int]
    depth: int
    columns: int
    dtype: str
    role: str
    arch: str

    @property
    def name(self) -> str:
        kernel = "x".join(map(str, self.kernel))
        return f"{self.model} {kernel} {self.depth}x{self.columns} {self.dtype} {self.role} {self.arch}"

    @property
    def multiplies(self) -> bool:
        """Whether the kernel has a matrix product, which tensor cores should take."""
        return self.role in DENSE


def jobs(models=tuple(MODELS), dtypes=DTYPES, archs=ARCHS) -> list[Job]:
    """The by-model list: kernel sizes, channels, dtypes, device kernels, architectures."""
    return [
        Job(model, kernel, *width, dtype, role, arch)
        for arch in archs
        for model in models
        for kernel in MODELS[model].kernels
        for width in MODELS[model].widths
        for dtype in dtypes
        for role in MODELS[model].roles
    ]


def thresholds_path() -> Path:
    from ..kernels.sparse_conv import triton_tiles

    return Path(triton_tiles.__file__).with_name("thresholds.json")


def record(job: Job) -> Any:
    """The Launch of one device kernel: 60,000 rows with 7 pairs each."""
    import math

    import torch

    from ..kernels.linear_attn import triton_plan
    from ..kernels.segment_ops import triton_launch as segments
    from ..kernels.sparse_conv import depthwise_triton, triton_launch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job.dtype]
    rows, pairs, cells = 60_000, 420_000, math.prod(job.kernel)

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    x, dy = empty(rows, job.depth), empty(rows, job.columns)
    table = empty(cells + 1, rows, dtype=torch.int32)
    lists = (empty(pairs, dtype=torch.int64),) * 2 + (empty(cells + 1, dtype=torch.int32),)
    weight = empty(job.columns, *job.kernel, job.depth)
    scales = empty(*job.kernel, job.depth)
    with triton_plan.recording(job.arch) as launches:
        if job.role == "forward":
            triton_launch.forward(x, weight, empty(job.columns), table)
        elif job.role in DENSE:
            dx = job.role == "input_gradient"
            triton_launch.backward(dy, x, weight, *lists, table, dx, not dx)
        elif job.role == "depthwise_forward":
            depthwise_triton.forward(x, scales, table)
        elif job.role in DEPTHWISE:
            depthwise_triton.backward(dy, x, scales, *lists, table, False, True)
        else:
            segments.segment_sum(x, empty(rows, dtype=torch.int64), 3000)
    return launches[-1 if job.role == "segment_sum_pieces" else 0]


def measure(job: Job, tile: Any = None) -> dict[str, Any]:
    """Compiles one job and returns its facts; ``tile`` replaces the shipped one (for trials)."""
    import dataclasses

    launch = record(job)
    if tile is not None:
        sizes = {"BM": tile.rows, "BN": tile.columns, "BC": tile.depth}
        sizes = {name: size for name, size in sizes.items() if name in launch.constants}
        launch = dataclasses.replace(launch, constants=launch.constants | sizes, tile=tile)
    return {**compile_launch(launch, job.arch), "tile": launch.tile.name}
