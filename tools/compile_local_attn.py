"""The launches of ``local_attn`` that ``linzoo kernel-report`` compiles, by the model that makes them.

As ``compile_facts`` does for linear attention: the launchers make them on meta tensors, so tiles, constants
and alignment are those that ship. Importing this file imports neither torch nor triton.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compile_facts import ARCHS, DTYPES, compile_launch

WINDOWED = ("forward", "query_gradient", "key_gradient")
# The same kernels for tokens that see, or are seen by, all others: global and extra ones.
DENSE = tuple(f"{role}_dense" for role in WINDOWED)


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model calls the op, its widths (D = E), and which of its launches are variants of their own."""

    widths: tuple[int, ...]
    roles: tuple[str, ...]
    window: dict[str, Any]
    pooled: bool = False


MODELS = {
    "clear": Model(widths=(64, 128), roles=WINDOWED + DENSE, window={"radius": 8}),
    "clear_pooled": Model(widths=(64, 128), roles=WINDOWED[:2], window={"radius": 8}, pooled=True),
}


@dataclass(frozen=True, order=True)
class Job:
    model: str
    width: int
    dtype: str
    role: str
    arch: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.width} {self.dtype} {self.role} {self.arch}"


def jobs(models=tuple(MODELS), dtypes=DTYPES, archs=ARCHS) -> list[Job]:
    """The by-model list: model widths, dtypes, device kernels, architectures."""
    return [
        Job(model, width, dtype, role, arch)
        for arch in archs
        for model in models
        for width in MODELS[model].widths
        for dtype in dtypes
        for role in MODELS[model].roles
    ]


def thresholds_path() -> Path:
    from ..kernels.local_attn import triton_tiles

    return Path(triton_tiles.__file__).with_name("thresholds.json")


def record(job: Job) -> Any:
    """The Launch of one device kernel: 24 heads, 512 text tokens, 64 x 64 image tokens, fused q|k|v."""
    import torch

    from ..kernels.linear_attn import triton_plan
    from ..kernels.local_attn import triton_launch
    from ..kernels.local_attn.arguments import check_geometry

    model = MODELS[job.model]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job.dtype]
    grid, text, heads, batch = (64, 64), 512, 24, 2
    tokens = text + grid[0] * grid[1]

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    q, k, v = (empty(batch, tokens, 3, heads, job.width)[:, :, i] for i in range(3))
    extra = (empty(batch, 256, heads, job.width),) * 2 if model.pooled else (None, None)
    words = {"radius": None, "window": None} | model.window
    geometry = check_geometry(q, k, grid, words["radius"], words["window"], text, True, None)
    with triton_plan.recording(job.arch) as launches:
        if job.role.startswith("forward"):
            triton_launch.forward(q, k, v, *extra, geometry, 0.125)
        else:
            y, lse = empty(*q.shape), empty(*q.shape[:3], dtype=torch.float32)
            triton_launch.backward(y, lse, q, k, v, *extra, y, lse, geometry, 0.125)
    kernel = f"{job.role.removesuffix('_dense')}_kernel"
    windowed = not job.role.endswith("_dense")
    own = [x for x in launches if x.kernel.fn.__name__ == kernel and x.constants["WINDOWED"] == windowed]
    return own[0]


def measure(job: Job, tile: Any = None) -> dict[str, Any]:
    """Compiles one job and returns its facts; ``tile`` replaces the shipped one (for trials)."""
    import dataclasses

    launch = record(job)
    if tile is not None:
        (qy, qx), (ky, kx) = tile.queries, tile.keys
        sizes = {"QY": qy, "QX": qx, "KY": ky, "KX": kx}
        launch = dataclasses.replace(launch, constants=launch.constants | sizes, tile=tile)
    return {**compile_launch(launch, job.arch), "tile": launch.tile.name}
