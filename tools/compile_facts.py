"""Ahead-of-time compilation of the Triton kernels for a GPU that is not here, and what the compilers report.

What is compiled are the launches that the launchers themselves make for a model's shapes (recorded on meta
tensors), so tiles, constants and argument alignment are those that ship. Nothing runs: these are facts about
the code, not speeds. Importing this file imports neither torch nor triton.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("bf16", "fp32")
ROLES = ("reduce_forward", "reduce_backward", "readout_forward", "readout_backward", "state_gradient")
TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|IMMA|UTCHMMA|UTCOMMA|UTCQMMA)\b")
_TYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "float64": "fp64",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model calls the op, and the (D, E) of its variants."""

    feature: str
    norm: str
    widths: tuple[tuple[int, int], ...]
    rope: bool = False
    weight: bool = False
    varlen: bool = False
    eps_on: str = "mean"
    mask: bool = False
    state_index: bool = False


def _square(*widths: int) -> tuple[tuple[int, int], ...]:
    return tuple((w, w) for w in widths)


MODELS = {
    "rala": Model(feature="elu1", norm="sum", widths=_square(64, 96), rope=True, weight=True),
    "mala": Model(feature="elu1", norm="mag", widths=_square(64, 96), rope=True),
    "nala": Model(feature="identity", norm="sum", widths=((64, 32), (128, 64), (192, 96)), rope=True),
    "l2vit": Model(feature="relu", norm="clamp", widths=_square(32)),
    "inline": Model(feature="identity", norm="sub", widths=_square(24, 32)),
    "linfusion": Model(feature="elu1", norm="sum", widths=_square(40, 64, 80, 160)),
    "lit": Model(feature="relu", norm="sum", widths=_square(192, 288)),
    "scatterformer": Model(feature="relu", norm="sum", widths=_square(32), varlen=True, eps_on="sum"),
    # No model: the arguments that the rows above leave out, so that they are compiled too.
    "others": Model(
        feature="relu", norm="sub", widths=_square(32), rope=True, varlen=True, mask=True, state_index=True
    ),
}


@dataclass(frozen=True, order=True)
class Job:
    model: str
    key_dim: int
    value_dim: int
    dtype: str
    role: str
    arch: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.key_dim}x{self.value_dim} {self.dtype} {self.role} {self.arch}"


def jobs(models=tuple(MODELS), dtypes=DTYPES, archs=ARCHS, roles=ROLES) -> list[Job]:
    """The by-model list: model widths, dtypes, device kernels, architectures."""
    return [
        Job(model, d, e, dtype, role, arch)
        for arch in archs
        for model in models
        for d, e in MODELS[model].widths
        for dtype in dtypes
        for role in roles
    ]


def record(job: Job) -> Any:
    """The Launch of one device kernel, as the launcher makes it for a fused q|k|v projection."""
    import torch

    from ..kernels.linear_attn import triton_launch, triton_plan

    model = MODELS[job.model]
    D, E, H = job.key_dim, job.value_dim, 8
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job.dtype]
    rows, B, N = (8, 1, 4096) if model.varlen else (2, 2, 4096)

    def fused(width: int) -> torch.Tensor:
        return torch.empty(B, N, 3, H, width, dtype=dtype, device="meta")[:, :, 1]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    q, k, v, dy = fused(D), fused(D), fused(E), empty(B, N, H, E, dtype=dtype)
    weight = empty(B, N, H, dtype=dtype) if model.weight else None
    rope = (empty(N, D), empty(N, D)) if model.rope else (None, None)
    cu = empty(rows + 1, dtype=torch.int32) if model.varlen else None
    S, s, m, n = empty(rows, H, D, E), empty(rows, H, D), empty(rows, H, E), empty(rows, dtype=torch.int64)
    mask = empty(B, N, dtype=torch.bool) if model.mask else None
    index = empty(N, dtype=torch.int32) if model.state_index else None
    tau = empty(H) if model.norm == "clamp" else None
    centered = model.norm == "sub" and not model.rope
    read = (tau, *rope, cu, index, model.feature, model.norm, 1e-6, model.eps_on, D**-0.5, 100.0, centered)
    with triton_plan.recording(job.arch) as launches:
        if job.role == "reduce_forward":
            triton_launch.reduce_forward(k, v, weight, mask, *rope, cu, model.feature, centered)
        elif job.role == "reduce_backward":
            state = (s, m, n, model.feature, centered)
            triton_launch.reduce_backward(S, s, m, k, v, weight, mask, *rope, cu, *state)
        elif job.role == "readout_forward":
            triton_launch.readout_forward(q, S, s, m, n, *read)
        else:
            triton_launch.readout_backward(dy, q, S, s, m, n, *read)
    return launches[1 if job.role == "state_gradient" else 0]


def source(launch: Any, amd: bool) -> Any:
    """The launch's kernel with types and alignment of its arguments, as Triton's JIT would derive them.

    Integers are of one kind, for no kernel specialises them: another batch or split is the same variant.
    """
    import torch
    from triton.compiler import ASTSource

    signature, constants, attrs = {}, dict(launch.constants), {}
    for index, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.args.get(parameter.name)
        if name in constants or value is None:
            signature[name] = "constexpr"
            constants.setdefault(name, value)
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[str(value.dtype).removeprefix("torch.")]
            attrs[(index,)] = [["tt.divisibility", 16]]
            if amd and value.untyped_storage().size() < 2**31:
                attrs[(index,)].append(["tt.pointer_range", 32])
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            assert parameter.do_not_specialize, f"{name} has variants that are not compiled here"
            signature[name] = "i32"
    return ASTSource(launch.kernel, signature, constexprs=constants, attrs=attrs)


def measure(job: Job, tile: Any = None) -> dict[str, Any]:
    """Compiles one job and returns its facts; ``tile`` replaces the shipped one (for trials)."""
    import dataclasses

    launch = record(job)
    if tile is not None:
        sizes = {"BN": tile.tokens, "BD": tile.keys, "BE": tile.values}
        sizes |= {"STEPS": tile.steps} if "STEPS" in launch.constants else {}
        launch = dataclasses.replace(launch, constants=launch.constants | sizes, tile=tile)
    sizes = launch.tile
    tile_name = f"{sizes.tokens}x{sizes.keys}x{sizes.values} w{sizes.warps} s{sizes.stages}"
    return {**compile_launch(launch, job.arch), "tile": tile_name}


def compile_launch(launch: Any, arch: str) -> dict[str, Any]:
    """Compiles one launch for ``arch`` and returns what the compilers report of it."""
    import triton
    from triton.backends.compiler import GPUTarget

    amd = arch.startswith("gfx")
    target = GPUTarget("hip", arch, 64) if amd else GPUTarget("cuda", int(arch[3:]), 32)
    options = {"num_warps": launch.tile.warps, "num_stages": launch.tile.stages}
    compiled = triton.compile(source(launch, amd), target=target, options=options)
    facts = amd_facts(compiled.asm["amdgcn"]) if amd else nvidia_facts(compiled.asm["cubin"])
    return {**facts, "shared": max(facts.get("shared", 0), compiled.metadata.shared)}


def compilers() -> dict[str, str]:
    """Versions of what compiles: triton (with its own LLVM for AMD), ptxas, and the ptxas for sm_100 on."""
    import triton

    found = {"triton": triton.__version__}
    for tool in ("ptxas", "ptxas-blackwell"):
        found[tool] = re.search(r"\bV(\d[\d.]*)", _text(_nvidia_tools() / tool, "--version"))[1]
    return found


def _nvidia_tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def nvidia_facts(cubin: bytes) -> dict[str, int]:
    """Registers, stack bytes, local accesses, tensor-core instructions, by tools that triton ships."""
    import tempfile

    tools = _nvidia_tools()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _text(tools / "cuobjdump", "-res-usage", file.name)
        sass = _text(tools / "nvdisasm", "-c", file.name)
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "tensor_cores": len(TENSOR_CORES.findall(sass)),
    }


def _text(*command: Any) -> str:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


def amd_facts(assembly: str) -> dict[str, int]:
    """The same from AMD's assembly text; registers are vector registers, accumulation ones included."""
    number = {k: int(v) for k, v in re.findall(r"^\s*\.(\w+):\s+(\d+)\s*$", assembly, re.M)}
    return {
        "registers": number["vgpr_count"],
        "stack": number["private_segment_fixed_size"],
        "spills": number["vgpr_spill_count"],
        "tensor_cores": len(re.findall(r"\bv_mfma", assembly)),
        "shared": number["group_segment_fixed_size"],
    }
