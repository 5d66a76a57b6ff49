"""Bad arguments raise before anything is computed; texts name the argument, what it must be, what it was."""

# ruff: noqa: E501

import pytest
import torch

from linzoo.kernels import BackendError, MaxState, ShapeError, decay_scan

B, N, H, D, E = 2, 6, 2, 4, 3


def tokens(d=D, **kw):
    return torch.ones(B, N, H, d, **kw)


def cu(*offsets, dtype=torch.int32):
    return torch.tensor(offsets, dtype=dtype)


S = torch.zeros(B, H, D, E)
MAX = {"normalizer": "max", "log_decay": torch.zeros(H)}
CONSTANT = {"log_decay": torch.zeros(H)}
BONUS = torch.ones(H, D)

REFUSED = {
    "q type": ({"q": [1.0]}, TypeError, r"q must be a tensor \(B, N, H, D\), got list"),
    "q rank": ({"q": torch.ones(B, N, D)}, ShapeError, r"q must have 4 dimensions \(B, N, H, D\), got \(2, 6, 4\)"),
    "q dtype": ({"q": tokens().long()}, ShapeError, r"q must be float64, .* got torch.int64"),
    "no tokens": ({"q": tokens()[:, :0]}, ShapeError, r"q must have no dimension of size 0"),
    "k shape": ({"k": torch.ones(B, N, H, 5)}, ShapeError, r"k must have q's shape .* \(2, 6, 2, 4\), got \(2, 6, 2, 5\)"),
    "v tokens": ({"v": torch.ones(B, 7, H, E)}, ShapeError, r"v must have k's \(B, N, H\) = \(2, 6, 2\), got \(2, 7, 2\)"),
    "v dtype": ({"v": tokens(E).double()}, ShapeError, r"v must be torch.float32, k's dtype, got torch.float64"),
    "decay type": ({"log_decay": -0.1}, TypeError, r"log_decay must be a tensor, got float"),
    "decay rank": (
        {"log_decay": torch.zeros(N, H)}, ShapeError, r"log_decay must be \(H,\), \(B, N, H\) or \(B, N, H, D\), got \(6, 2\)"
    ),
    "decay heads": ({"log_decay": torch.zeros(3)}, ShapeError, r"log_decay must be \(H,\) = \(2,\), got \(3,\)"),
    "decay tokens": (
        {"log_decay": torch.zeros(B, 7, H)}, ShapeError, r"log_decay must be \(B, N, H\) = \(2, 6, 2\), got \(2, 7, 2\)"
    ),
    "decay width": (
        {"log_decay": torch.zeros(B, N, H, E)}, ShapeError, r"log_decay must be \(B, N, H, D\) = \(2, 6, 2, 4\), got \(2, 6, 2, 3\)"
    ),
    "decay dtype": ({"log_decay": torch.zeros(H).long()}, ShapeError, r"log_decay must be float64, .* got torch.int64"),
    "decay device": (
        {"log_decay": torch.zeros(H, device="meta")}, ShapeError, r"log_decay must be on q's device cpu, got meta"
    ),
    "bonus shape": ({"bonus": torch.ones(H)}, ShapeError, r"bonus must have 2 dimensions \(H, D\), got \(2,\)"),
    "bonus width": ({"bonus": torch.ones(H, E)}, ShapeError, r"bonus must be \(H, D\) = \(2, 4\), got \(2, 3\)"),
    "exclusive": ({"exclusive": 1}, TypeError, r"exclusive must be True or False, got int"),
    "reverse": ({"reverse": None}, TypeError, r"reverse must be True or False, got NoneType"),
    "scale": ({"scale": torch.ones(1)}, TypeError, r"scale must be a Python number, got Tensor"),
    "chunk": ({"chunk": 0}, ValueError, r"chunk must be >= 1, got 0"),
    "chunk type": ({"chunk": 64.0}, TypeError, r"chunk must be an integer, got float"),
    "normalizer": ({"normalizer": "mx"}, ValueError, r"normalizer must be None or 'max', got 'mx'"),
    "gate alone": ({"input_gate": torch.ones(B, N, H)}, ValueError, r"input_gate must be None unless normalizer='max', got a tensor"),
    "gate shape": (
        MAX | {"input_gate": torch.ones(B, N)}, ShapeError, r"input_gate must have 3 dimensions \(B, N, H\), got \(2, 6\)"
    ),
    "gate type": (MAX | {"input_gate": 1.0}, TypeError, r"input_gate must be a tensor \(B, N, H\), got float"),
    "max per channel": (
        {"normalizer": "max"}, ShapeError, r"log_decay must be \(H,\) or \(B, N, H\) with normalizer='max', got \(2, 6, 2, 4\)"
    ),
    "block of 0": (CONSTANT | {"symmetric_block": 0}, ValueError, r"symmetric_block must be >= 1, got 0"),
    "block type": (CONSTANT | {"symmetric_block": True}, TypeError, r"symmetric_block must be an integer, got bool"),
    "block per token": (
        {"symmetric_block": 4, "log_decay": torch.zeros(B, N, H)},
        ShapeError,
        r"log_decay must be constant, \(H,\), with symmetric_block, got \(2, 6, 2\)",
    ),
    "block and bonus": (
        CONSTANT | {"symmetric_block": 4, "bonus": BONUS}, ValueError, r"bonus must be None with symmetric_block=4, got both"
    ),
    "block and exclusive": (
        CONSTANT | {"symmetric_block": 4, "exclusive": True}, ValueError, r"exclusive must be False with symmetric_block=4, got both"
    ),
    "block and max": (
        MAX | {"symmetric_block": 4}, ValueError, r"symmetric_block must be None with normalizer='max', got 4"
    ),
    "max and bonus": (MAX | {"bonus": BONUS}, ValueError, r"bonus must be None with normalizer='max', got both"),
    "max and exclusive": (MAX | {"exclusive": True}, ValueError, r"exclusive must be False with normalizer='max', got both"),
    "initial type": ({"initial": MaxState(S, S[..., 0], S[..., 0, 0])}, TypeError, r"initial must be a tensor \(B, H, D, E\), got MaxState"),
    "initial shape": ({"initial": S[:1]}, ShapeError, r"initial must be \(B, H, D, E\) = \(2, 2, 4, 3\), got \(1, 2, 4, 3\)"),
    "initial dtype": ({"initial": S.double()}, ShapeError, r"initial must be torch.float32 for q of torch.float32, got torch.float64"),
    "initial half": (
        {name: x.bfloat16() for name, x in (("q", tokens()), ("k", tokens()), ("v", tokens(E)), ("initial", S))},
        ShapeError,
        r"initial must be torch.float32 for q of torch.bfloat16, got torch.bfloat16",
    ),
    "max initial": (MAX | {"initial": S}, TypeError, r"initial must be a MaxState with normalizer='max', got Tensor"),
    "max initial n": (
        MAX | {"initial": MaxState(S, S, S[..., 0, 0])}, ShapeError, r"initial.n must have 3 dimensions \(B, H, D\), got \(2, 2, 4, 3\)"
    ),
    "max initial m": (
        MAX | {"initial": MaxState(S, S[..., 0], S[:1, :, 0, 0])}, ShapeError, r"initial.m must be \(B, H\) = \(2, 2\), got \(1, 2\)"
    ),
    "segments of 2 rows": ({"cu_seqlens": cu(0, 6)}, ShapeError, r"q must have B = 1 with cu_seqlens .* got B = 2"),
    "backend": ({"backend": "egaer"}, ValueError, r"backend must be one of .* got 'egaer' \(did you mean 'eager'\?\)"),
    "triton": ({"backend": "triton"}, BackendError, r"no backend for backend='triton' \(triton: "),
    "triton block": (
        {"log_decay": -torch.rand(2), "symmetric_block": 65, "backend": "triton"}, BackendError,
        r"\(triton: takes symmetric_block up to 64\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_decay_scan_refuses(case):
    wrong, error, text = REFUSED[case]
    good = {"q": tokens(), "k": tokens(), "v": tokens(E), "log_decay": torch.zeros(B, N, H, D)}
    decay_scan(**good)
    with pytest.raises(error, match="decay_scan: .*" + text):
        decay_scan(**(good | wrong))


@pytest.mark.parametrize(
    ("offsets", "text"),
    [
        (cu(0, 3, 6, dtype=torch.int64), "cu_seqlens must be torch.int32 .* got torch.int64"),
        (cu(0, 4, 3, 6), r"cu_seqlens must never fall from one entry to the next, got \[0, 4, 3, 6\]"),
        (cu(1, 3, 6), "cu_seqlens must start at 0, got 1"),
        (cu(0, 3, 9), "cu_seqlens must end at N = 6, got 9"),
        (cu(0), "cu_seqlens must have at least 2 entries"),
    ],
)
def test_offsets_that_do_not_span_the_tokens_are_refused(offsets, text):
    q = tokens()[:1]
    with pytest.raises(ShapeError, match="decay_scan: " + text):
        decay_scan(q, q, q, torch.zeros(H), cu_seqlens=offsets)


@pytest.mark.parametrize("normalizer", [None, "max"])
def test_offsets_that_a_compiler_could_not_read_are_refused_when_the_op_runs(normalizer):
    q = tokens()[:1]

    def scan(offsets):
        return decay_scan(q, q, q, torch.zeros(H), cu_seqlens=offsets, normalizer=normalizer)[0]

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    for offsets, text in ((cu(0, 4), "end at N = 6, got 4"), (cu(0, 4, 2, 6), "never fall")):
        with pytest.raises(ShapeError, match=f"cu_seqlens must {text}"):
            compiled(offsets)


def test_an_initial_state_must_have_a_row_for_every_segment():
    q, v = tokens()[:1], tokens(E)[:1]
    with pytest.raises(
        ShapeError, match=r"initial must be \(G, H, D, E\) = \(3, 2, 4, 3\), got \(2, 2, 4, 3\)"
    ):
        decay_scan(q, q, v, torch.zeros(H), cu_seqlens=cu(0, 2, 2, 6), initial=S)
