"""What ``ttt_scan`` accepts, put together from the single checks."""

from torch import Tensor

from .. import checks
from ..dispatch import Backend

OP = "ttt_scan"
BACKENDS = (
    Backend("triton", lambda x: "there is no Triton kernel for ttt_scan", by_name_only=lambda x: False),
    Backend("eager", lambda x: None, by_name_only=lambda x: False),
    Backend("reference", lambda x: None, by_name_only=lambda x: True),
)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        checks.check_tokens(OP, name, x, "(B, N, H, D)")


def check_options(q: Tensor, k: Tensor, v: Tensor, size: int, eps: float) -> None:
    checks.check_queries(OP, q, k)
    checks.check_shape(OP, "v", v, "(B, N, H, D)", tuple(q.shape))
    checks.check_like(OP, "v", v, "q", q)
    checks.check_integer(OP, "size", size, least=1)
    checks.check_number(OP, "eps", eps, above=0)


def check_parameters(
    q: Tensor,
    rows: int,
    size: int,
    rate: Tensor,
    position_rate: Tensor,
    W0: Tensor,
    b0: Tensor,
    gamma: Tensor,
    beta: Tensor,
) -> None:
    heads, width = q.shape[2:]
    _check("rate", rate, "(B, N, H)", tuple(q.shape[:3]), q)
    _check("position_rate", position_rate, "(size,)", (size,), q)
    for name, x, layout, shape in (
        ("W0", W0, "H, D, D", (heads, width, width)),
        ("b0", b0, "H, D", (heads, width)),
    ):
        if isinstance(x, Tensor) and x.dim() == len(shape) + 1:
            _check(name, x, f"(R, {layout})", (rows, *shape), q)
        else:
            _check(name, x, f"({layout})", shape, q)
    _check("gamma", gamma, "(H, D)", (heads, width), q)
    _check("beta", beta, "(H, D)", (heads, width), q)


def _check(name: str, x: Tensor, layout: str, shape: tuple[int, ...], q: Tensor) -> None:
    """That shape, a floating dtype of its own, q's device."""
    checks.check_shape(OP, name, x, layout, shape)
    checks.check_floating(OP, name, x)
    checks.check_like(OP, name, x, "q", q, x.dtype)
