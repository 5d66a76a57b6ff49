"""What the interpreter suite runs, and inputs that sit inside NaN so that a read too far shows."""

from dataclasses import dataclass, replace

import torch
from device import DEVICE
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    B: int = 2
    N: int = 140  # not a multiple of a block
    H: int = 2
    D: int = 32
    E: int = 32
    feature: str = "elu1"
    norm: str = "sum"
    eps: float = 1e-6
    eps_on: str = "mean"
    cmin: float | None = None
    rope: bool = False
    weight: bool = False
    mask: bool = False
    cu: tuple[int, ...] | None = None
    state_index: Tensor | None = None
    dtype: str = "fp32"
    # odd: strides share no factor; fused: one q|k|v buffer; heads_first: (B, H, N, D) memory;
    # every_other: stride 2 on the last axis; far, far_heads: offsets pass 2^31 elements (address space is
    # reserved, the pages in between are never touched)
    layout: str = "odd"
    splits: int | None = None
    offset: float = 0.0
    size: float = 1.0
    k_offset: float = 0.0  # keys only
    state_gradient: float = 1.0  # size of dS, ds and dm, where dk and dv would leave float16's range
    heaviest: float | None = None  # the largest weight, float32; the others are below 1.5

    @property
    def centered(self) -> bool:
        return self.norm == "sub" and not self.rope

    def scale(self, key_dim: int) -> float:
        return key_dim**-0.5 if self.norm in ("mag", "sub") else 0.0


def _index(tokens: int, rows: int) -> Tensor:
    return torch.randint(rows, (tokens,), generator=torch.Generator().manual_seed(3)).int().to(DEVICE)


SEGMENTS = (0, 0, 7, 7, 72, 131, 140, 140)  # empty ones first, inside and last

CASES = [
    Case(name="rala", rope=True, weight=True),
    Case(name="rala_fused_qkv", rope=True, weight=True, layout="fused"),
    Case(name="rala_fp16", rope=True, weight=True, dtype="fp16"),
    Case(name="rala_bf16", rope=True, weight=True, dtype="bf16"),
    Case(name="rala_96_bf16", B=1, rope=True, weight=True, dtype="bf16", D=96, E=96, layout="fused"),
    Case(name="mala", norm="mag", eps=1e-5, rope=True, D=16, E=16),
    Case(name="mala_heads_first", norm="mag", eps=1e-5, rope=True, D=16, E=16, layout="heads_first"),
    Case(name="mala_fp16", norm="mag", eps=1e-5, rope=True, dtype="fp16"),
    Case(name="mala_bf16", norm="mag", eps=1e-5, rope=True, dtype="bf16"),
    Case(name="mala_masked", norm="mag", eps=1e-5, mask=True),
    Case(name="nala_wide_keys", B=1, feature="identity", D=64, E=32, rope=True, size=0.2, offset=0.5),
    Case(name="l2vit", feature="relu", norm="clamp", cmin=430.0, mask=True),
    Case(name="l2vit_fp16", feature="relu", norm="clamp", cmin=700.0, dtype="fp16", layout="fused"),
    Case(name="inline", feature="identity", norm="sub", D=24, E=24, offset=3.0),
    Case(name="inline_split", feature="identity", norm="sub", D=24, E=24, offset=3.0, splits=3, mask=True),
    Case(name="inline_varlen", B=1, feature="identity", norm="sub", cu=SEGMENTS, offset=3.0),
    Case(name="inline_bf16", feature="identity", norm="sub", dtype="bf16"),
    Case(name="subtractive_rope", feature="relu", norm="sub", rope=True, mask=True),
    Case(name="linfusion_40", D=40, E=40, eps=1e-4, splits=2, layout="fused"),
    Case(name="linfusion_40_fp16", D=40, E=40, eps=1e-4, dtype="fp16", layout="fused"),
    Case(name="scatterformer", B=1, feature="relu", eps_on="sum", cu=SEGMENTS),
    Case(
        name="scatterformer_rope", B=1, eps_on="sum", cu=SEGMENTS, rope=True, weight=True, mask=True, splits=2
    ),
    Case(name="values_wider_than_keys", B=1, D=24, E=72, N=70, weight=True),
    Case(name="keys_and_values_tiled", B=1, H=1, D=96, E=40, N=70, rope=True),
    Case(name="three_key_tiles_fp16", B=1, H=1, D=136, E=24, N=70, dtype="fp16", norm="mag", rope=True),
    Case(name="one_token", N=1, rope=True, weight=True, norm="clamp", cmin=500.0),
    Case(name="seven_tokens_tiny_heads", N=7, D=4, E=3, norm="mag", eps=1e-3),
    Case(name="one_head", H=1, N=65, mask=True),
    Case(name="all_masked", N=9, mask=True, norm="mag", eps=1e-5, splits=2, B=1, cu=(0, 9)),
    Case(name="large_fp16", N=200, size=12.0, dtype="fp16", rope=True),  # S passes 65504
    Case(name="no_unit_stride", N=20, D=16, E=16, layout="every_other"),
    Case(name="far_tokens", B=1, N=3, H=1, D=16, E=16, dtype="fp16", layout="far", norm="mag", eps=1e-3),
    Case(name="far_batch_items", B=3, N=1, D=16, E=16, dtype="fp16", layout="far", norm="clamp", cmin=99.0),
    Case(name="far_heads", B=1, N=3, H=3, D=16, E=16, dtype="fp16", layout="far_heads"),
    # weights times features, and S / n, outside float16's range; weights in float32 where float16 holds none
    Case(
        name="weight_65536_fp16",
        H=1,
        D=40,
        weight=True,
        rope=True,
        offset=2.0,
        dtype="fp16",
        heaviest=65536.0,
        state_gradient=0.01,
    ),
    Case(name="small_keys_fp16", k_offset=-12.0, eps=0.0, dtype="fp16"),
    Case(name="tiny_keys_fp16", k_offset=-18.0, eps=0.0, D=16, E=16, dtype="fp16", state_gradient=1000.0),
    Case(name="any_state_sum", B=1, cu=SEGMENTS, state_index=_index(140, 7), rope=True, weight=True),
    Case(name="any_state_mag", B=1, cu=SEGMENTS, state_index=_index(140, 7), norm="mag", eps=1e-5),
    Case(name="any_state_sub", B=1, cu=SEGMENTS, state_index=_index(140, 7), norm="sub", mask=True),
    Case(
        name="any_state_clamp",
        B=1,
        cu=SEGMENTS,
        state_index=_index(140, 7),
        norm="clamp",
        cmin=30.0,
        dtype="fp16",
    ),
]
_CMIN = {"identity": 150.0, "elu1": 2000.0, "relu": 0.0}  # near the middle of the denominators
for _norm in ("sum", "clamp", "mag", "sub"):  # every normaliser with every feature
    CASES += [
        Case(
            name=f"{_norm}_{f}",
            norm=_norm,
            feature=f,
            D=16,
            E=16,
            N=66,
            B=1,
            cmin=_CMIN[f],
            offset=0.4,
            eps=1e-4,
        )
        for f in ("identity", "elu1", "relu")
        if (_norm, f) not in {("sub", "identity"), ("clamp", "relu")}
    ]
CASES = [replace(c, cmin=c.cmin if c.norm == "clamp" else None) for c in CASES]
BY_NAME = {c.name: c for c in CASES}


def filled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def inside_nan(values: Tensor, layout: str) -> Tensor:
    """The same values as a view into a larger NaN-filled tensor on the device."""
    if values.ndim == 4 and layout == "far":
        B, N, H, D = values.shape
        buffer = torch.empty(2**31 + H * D, dtype=values.dtype, device=DEVICE)
        view = buffer.as_strided((B, N, H, D), (2**30, 2**30, D, 1))
    elif values.ndim == 4 and layout == "far_heads":
        B, N, H, D = values.shape
        step = 2**30 + 1
        buffer = torch.empty((H - 1) * step + N * D, dtype=values.dtype, device=DEVICE)
        view = buffer.as_strided((B, N, H, D), (0, D, step, 1))
    elif values.ndim == 4 and layout == "fused":  # the second third of a fused projection
        B, N, H, D = values.shape
        buffer = filled((B, N + 64, 3, H, D), values.dtype)
        view = buffer[:, 32 : 32 + N, 1]
    elif values.ndim == 4 and layout == "every_other":
        view = filled((*values.shape, 2), values.dtype)[..., 0]
    elif values.ndim == 4 and layout == "heads_first":
        B, N, H, D = values.shape
        view = filled((B, H, N + 64, D), values.dtype)[:, :, 32 : 32 + N].transpose(1, 2)
    else:
        margins = [3, 40, *[5] * (values.ndim - 2)] if values.ndim > 1 else [40]
        sizes = tuple(n + 2 * a for n, a in zip(values.shape, margins, strict=True))
        buffer = filled(sizes, values.dtype)
        view = buffer[tuple(slice(a, a + n) for n, a in zip(values.shape, margins, strict=True))]
    view.copy_(values)
    return view


@dataclass
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor
    dy: Tensor
    weight: Tensor | None
    mask: Tensor | None
    rope: tuple[Tensor, Tensor] | None
    tau: Tensor | None
    cu: Tensor | None
    dS: Tensor
    ds: Tensor
    dm: Tensor

    @property
    def cos_sin(self) -> tuple[Tensor | None, Tensor | None]:
        return self.rope or (None, None)


def make(case: Case) -> Inputs:
    """Random inputs of a case; masked keys and values are NaN, so nothing of them may be used."""
    torch.manual_seed(len(case.name) + case.D)
    dtype = DTYPES[case.dtype]
    q, k = (torch.randn(case.B, case.N, case.H, case.D) * case.size + case.offset for _ in range(2))
    k += case.k_offset
    v, dy = (torch.randn(case.B, case.N, case.H, case.E) + case.offset for _ in range(2))
    mask = None
    if case.mask:
        mask = torch.rand(case.B, case.N) < (0.6 if case.name != "all_masked" else -1)
        k[~mask], v[~mask] = float("nan"), float("nan")
    angles = torch.rand(case.N, case.D // 2).repeat_interleave(2, 1) * 6
    rope = (inside_nan(angles.cos(), "odd"), inside_nan(angles.sin(), "odd")) if case.rope else None
    rows = case.B if case.cu is None else len(case.cu) - 1
    weight = None
    if case.weight:
        weight = torch.rand(case.B, case.N, case.H).add(0.5)
        if case.heaviest is None:
            weight = weight.to(dtype)
        else:
            weight[:, case.N // 2] = case.heaviest
    q, k, v, dy = (inside_nan(x.to(dtype), case.layout) for x in (q, k, v, dy))
    return Inputs(
        q, k, v, dy.contiguous(),
        None if weight is None else inside_nan(weight, "odd"),
        None if mask is None else mask.to(DEVICE), rope,
        (torch.rand(case.H) + 0.5).to(DEVICE) if case.norm == "clamp" else None,
        None if case.cu is None else torch.tensor(case.cu, dtype=torch.int32, device=DEVICE),
        *(
            (torch.randn(rows, case.H, *shape) * case.state_gradient).to(DEVICE)
            for shape in ((case.D, case.E), (case.D,), (case.E,))
        ),
    )  # fmt: skip
