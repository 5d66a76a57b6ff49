"""The launches of ``decay_scan`` that ``linzoo kernel-report`` compiles, by the model that makes them.

As ``compile_facts`` does for linear attention: the launchers make them on meta tensors, so tiles, constants
and alignment are those that ship. Importing this file imports neither torch nor triton.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compile_facts import ARCHS, DTYPES, compile_launch

ROLES = ("states", "outputs", "dstates", "doutputs", "gradients")


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model calls the op, and its widths (D = E)."""

    widths: tuple[int, ...]
    kind: str  # of log decays: constant, token, channel
    symmetric_block: int = 0
    bonus: bool = False
    exclusive: bool = False
    count: bool = False
    packed: bool = False


MODELS = {
    "lion_retnet": Model(widths=(64,), kind="constant", symmetric_block=64, packed=True),
    "lion_rwkv": Model(widths=(64,), kind="channel", bonus=True, exclusive=True, packed=True),
    "lion_mlstm": Model(widths=(64,), kind="token", count=True, packed=True),
    "causal_lightnet": Model(widths=(128,), kind="channel"),
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
        for role in ROLES
    ]


def thresholds_path() -> Path:
    from ..kernels.decay_scan import triton_tiles

    return Path(triton_tiles.__file__).with_name("thresholds.json")


def record(job: Job) -> Any:
    """The Launch of one device kernel: 8 heads, 4,096 tokens, packed in 8 segments or in 2 rows."""
    import torch

    from ..kernels.decay_scan import triton_launch
    from ..kernels.decay_scan.eager import Inputs, Words
    from ..kernels.linear_attn import triton_plan

    model, heads, tokens, width = MODELS[job.model], 8, 4096, job.width
    batch, states = (1, 8) if model.packed else (2, 2)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job.dtype]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    q, k, v = (empty(batch, tokens, 3, heads, width, dtype=dtype)[:, :, i] for i in range(3))
    shape = {"constant": (heads,), "token": (batch, tokens, heads), "channel": q.shape}[model.kind]
    # the normaliser hands its decays and weights on in float64
    gates = empty(*shape, dtype=torch.float64 if model.count else torch.float32)
    weight = empty(batch, tokens, heads, dtype=torch.float64) if model.count else None
    bonus = empty(heads, width) if model.bonus else None
    cu = empty(states + 1, dtype=torch.int32) if model.packed else None
    value_dim = width + model.count
    state = empty(states, heads, width, value_dim)
    inputs = Inputs(q, k, v, gates, weight, bonus, state, cu)
    words = Words(model.symmetric_block, model.exclusive, model.count, 1.0, False, 64)
    with triton_plan.recording(job.arch) as launches:
        if job.role in ("states", "outputs"):
            triton_launch.scan_forward(inputs, words)
        else:
            do = empty(batch, tokens, heads, value_dim, dtype=torch.float32 if model.count else dtype)
            triton_launch.scan_backward(do, state, inputs, words)
    first = {"states": 0, "outputs": 1, "dstates": 1, "doutputs": 2, "gradients": 3}
    return launches[first[job.role]]


def measure(job: Job, tile: Any = None) -> dict[str, Any]:
    """Compiles one job and returns its facts; ``tile`` replaces the shipped one (for trials)."""
    import dataclasses

    launch = record(job)
    if tile is not None:
        sizes = {"BD": tile.keys, "BE": tile.values}
        launch = dataclasses.replace(launch, constants=launch.constants | sizes, tile=tile)
    return {**compile_launch(launch, job.arch), "tile": launch.tile.name}
