"""Peak bytes of a forward pass, found on the meta device: every operation runs on shapes only.

What counts are the storages that operations make, from their making until nothing refers to them, which is
what the real pass holds too, since the same code runs. Added to that is what some operations take for
themselves while they run (measured on CPUs, torch 2.14; CUDA's own workspaces are not counted).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
POINTWISE = (aten.add, aten.sub, aten.mul, aten.div, aten.silu, aten.gelu, aten.leaky_relu)
PRODUCTS = (aten.addmm, aten.mm, aten.bmm, aten.baddbmm, aten.linear)


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes that ``call`` holds at once on ``device``, beyond its arguments.

    Args:
        call: works on meta tensors only.
        device: "cpu" or "cuda": whose operations it would run.
    """
    bytes_ = LiveBytes(device)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(FusedAttention())
        stack.enter_context(bytes_)
        call()
    return bytes_.peak


class LiveBytes(TorchDispatchMode):
    """``live``: bytes of the storages made inside that something refers to; ``peak``: the most there were."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}  # a storage's address -> its bytes, 0 for those from outside
        self._own = own_bytes_on_cpu if device == "cpu" else None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in given:
            self._see(x, made=False)
        out = shortcut(func, args, kwargs)
        out = func(*args, **kwargs) if out is None else out
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._see(x, made=True)
        own = self._own(func, args, out) if self._own is not None else 0
        self.peak = max(self.peak, self.live + own)
        return out

    def _see(self, x: Tensor, made: bool) -> None:
        storage = x.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        self._known[address] = storage.nbytes() if made else 0
        self.live += self._known[address]
        weakref.finalize(storage, self._gone, address)

    def _gone(self, address: int) -> None:
        self.live -= self._known.pop(address, 0)


class FusedAttention(TorchFunctionMode):
    """Softmax attention as the fused kernels do it: no matrix of weights, heads last in memory."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        words = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, value = words["query"], words["value"]
        batch, heads, tokens, _ = query.shape
        return query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)


def shortcut(func: Any, args: tuple, kwargs: dict) -> Any:
    """The result of a pointwise operation or a norm, None for others: torch's own way to it is slow."""
    packet = getattr(func, "overloadpacket", None)
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.is_meta or "out" in kwargs:
        return None
    if packet in POINTWISE:
        given = [a for a in args if isinstance(a, Tensor)]
        largest = max(given, key=Tensor.numel)
        whole = all(a.dtype == x.dtype and fits(a, largest) for a in given)
        return torch.empty_like(largest) if whole else None
    if packet is aten.native_layer_norm:
        tokens = x.shape[: -len(args[1])]
        return x.new_empty(x.shape), *(x.new_empty(tokens, dtype=torch.float32) for _ in range(2))
    if packet is aten.native_group_norm:
        return torch.empty_like(x), *(x.new_empty(args[3], args[6]) for _ in range(2))
    return None


def fits(x: Tensor, largest: Tensor) -> bool:
    """Whether ``x`` broadcasts to ``largest`` and leaves its shape as it is."""
    sides = zip(reversed(x.shape), reversed(largest.shape), strict=False)
    return x.ndim <= largest.ndim and all(a in (1, b) for a, b in sides)


def own_bytes_on_cpu(func: Any, args: tuple, out: Any) -> int:
    """What an operation holds while it runs, on a CPU without bfloat16 arithmetic where that matters.

    A convolution copies its input (channels last) and its weights; a 1 x 1 one in float32 neither. A product
    in half precision is summed in float32, all of it.
    """
    packet = getattr(func, "overloadpacket", None)
    if packet is aten.convolution:
        x, weight = args[0], args[1]
        half = x.element_size() < 4
        if tuple(weight.shape[2:]) == (1, 1):
            return bytes_of(x) + 4 * out.numel() * (not native_half(x.dtype)) if half else 0
        return bytes_of(x) + bytes_of(weight)
    if packet in PRODUCTS and out.element_size() < 4 and not native_half(out.dtype):
        return 4 * out.numel()
    return 0


def native_half(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies in the half precision ``dtype`` itself."""
    names = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in names.get(dtype, ()))


def bytes_of(x: Tensor) -> int:
    return x.numel() * x.element_size()
