"""``linzoo bench detection``: parameters and multiply-adds of detectors, the published ones beside them.

Nothing is timed: the detector is built without memory (meta device) and one picture goes through backbone,
neck and heads. As in mmdetection's own tables, the second stage sees 1000 boxes, and 100 of them get a mask.
Multiply-adds come in three sums: ``layers``, convolutions and linear layers; ``rest``, their biases (1 for
each output) and the norms (2 each); ``mixing``, products between tokens (linear attention, softmax).
Published figures are ``layers`` + ``rest``: mmcv's ``get_model_complexity_info`` looks at modules only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

CONFIGS = Path(__file__).parents[1] / "configs" / "detection"
RESULTS = Path(__file__).parent / "results" / "detection-flops.jsonl"
BOXES, MASKS = 1000, 100  # of one picture in the second stage
SUMS = ("layers", "rest", "mixing")
PUBLISHED_SHAPE = (1280, 800)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", nargs="*", help="files, or names and wildcards of configs/detection (default: all)")
    add("--shape", nargs=2, type=int, metavar=("H", "W"), default=PUBLISHED_SHAPE, help="default 1280 800")
    add("--save", action="store_true", help=f"replace the rows in {RESULTS.name}; all configs, 1280 x 800")
    add("--out", type=Path, default=RESULTS, help="where --save writes")


def run(args: argparse.Namespace) -> int:
    if min(args.shape) < 32:
        raise ValueError(f"--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}")
    if args.save and (args.config or tuple(args.shape) != PUBLISHED_SHAPE):
        raise ValueError("--save keeps rows of all configs at 1280 800: it takes no CONFIG and no --shape")
    files = find_configs(args.config)
    published = read_published()
    print(f"one picture of {args.shape[0]} x {args.shape[1]}; published figures in brackets")
    rows = []
    for file in files:
        rows.append(count(file, args.shape))
        if file.parent == CONFIGS and tuple(args.shape) == PUBLISHED_SHAPE and file.stem in published:
            rows[-1]["published"] = published[file.stem]
        print(line(rows[-1]), flush=True)
    if args.save:
        save(args.out, rows)
    return 0


def find_configs(patterns: Sequence[str]) -> list[Path]:
    """Files of the patterns, each a path or a name or wildcard of the packaged configs.

    Raises: FileNotFoundError for one that fits nothing.
    """
    from .detection.config import find_config, packaged

    known = packaged()
    found: dict[Path, None] = {}
    for pattern in patterns or ["*"]:
        fits = [file for name, file in known.items() if fnmatch(name, pattern)]
        found |= dict.fromkeys(fits or [find_config(pattern)])
    return list(found)


def read_published() -> dict[str, dict[str, float]]:
    """Name of a config -> published parameters (1e6) and multiply-adds (1e9), from ``metafile.yml``."""
    import yaml

    models = yaml.safe_load((CONFIGS / "metafile.yml").read_text(encoding="utf-8"))["Models"]
    facts = {model["Name"]: model["Metadata"] for model in models}
    return {
        name: {"parameters_m": fact["Parameters (M)"], "gflops": fact["FLOPs (G)"]}
        for name, fact in facts.items()
        if "FLOPs (G)" in fact
    }


def count(file: Path, shape: Sequence[int]) -> dict[str, Any]:
    """One row: parameters, and multiply-adds in 1e9 in all and of every part."""
    import torch

    from .detection.config import read_config
    from .detection.model_checks import meta_detector

    model = meta_detector(read_config(str(file))).eval()
    parts = {}
    maps, parts["backbone"] = macs_of(model.backbone, torch.empty(1, 3, *shape, device="meta"))
    maps, parts["neck"] = macs_of(model.neck, maps)
    dense = model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head
    _, parts["dense head"] = macs_of(dense, maps)
    if hasattr(model, "roi_head"):
        parts["boxes"] = second_stage(model.roi_head, "bbox", BOXES)
        if model.roi_head.with_mask:
            parts["masks"] = second_stage(model.roi_head, "mask", MASKS)
    sums = {what: sum(part[what] for part in parts.values()) for what in SUMS}
    return {
        "config": file.stem,
        "shape": list(shape),
        "parameters": sum(p.numel() for p in model.parameters()),
        "gmacs": {what: round(value, 2) for what, value in sums.items()},
        "parts": {name: round(sum(part.values()), 2) for name, part in parts.items()},
    }


def second_stage(roi_head: nn.Module, kind: str, regions: int) -> dict[str, float]:
    """Multiply-adds of the box or mask heads of all cascade stages on as many regions."""
    import torch
    from torch import nn

    heads, extractors = getattr(roi_head, f"{kind}_head"), getattr(roi_head, f"{kind}_roi_extractor")
    if not isinstance(heads, nn.ModuleList):
        heads, extractors = [heads], [extractors]
    found = dict.fromkeys(SUMS, 0.0)
    for head, extractor in zip(heads, extractors, strict=True):
        size = extractor.roi_layers[0].output_size
        _, macs = macs_of(head, torch.empty(regions, extractor.out_channels, *size, device="meta"))
        found = {what: found[what] + macs[what] for what in found}
    return found


def macs_of(call: nn.Module, *inputs: Any) -> tuple[Any, dict[str, float]]:
    """The module's output, and its multiply-adds in 1e9 as the three sums of this file.

    Raises: NotImplementedError for an operation of linzoo's that has no formula here.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from .models import state_flops

    ours = {torch.ops.linzoo.lin_reduce: state_flops, torch.ops.linzoo.lin_readout: state_flops}
    layers = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
    counter = FlopCounterMode(display=False, custom_mapping=ours)
    with torch.no_grad(), torch.device("meta"), rest_of(call) as rest, known_ops(ours), counter:
        output = call(*inputs)
    counts = counter.get_flop_counts().get("Global", {})
    in_layers = sum(flops for op, flops in counts.items() if op in layers) / 2e9
    mixing = sum(counts.values()) / 2e9 - in_layers
    return output, {"layers": in_layers, "rest": sum(rest) / 1e9, "mixing": mixing}


@contextmanager
def rest_of(module: nn.Module) -> Iterator[list[int]]:
    """Operations of biases and norms of what runs inside, a list that fills."""
    from torch import nn

    found: list[int] = []
    norms = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)

    def count(part: nn.Module, inputs: tuple, output: Any) -> None:
        found.append(2 * output.numel() if isinstance(part, norms) else output.numel())

    parts = [m for m in module.modules() if isinstance(m, norms) or has_bias(m)]
    hooks = [part.register_forward_hook(count) for part in parts]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def has_bias(module: nn.Module) -> bool:
    from torch import nn

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return isinstance(module, kinds) and module.bias is not None


def known_ops(formulas: dict) -> AbstractContextManager:
    """Inside, an operation of linzoo's without a formula raises: it would count as nothing."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Known(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "linzoo" and func.overloadpacket not in formulas:
                raise NotImplementedError(f"linzoo bench detection: {func} has no count of multiply-adds")
            return func(*args, **(kwargs or {}))

    return Known()


def line(row: dict[str, Any]) -> str:
    published = row.get("published", {"parameters_m": "-", "gflops": "-"})
    gmacs = row["gmacs"]
    return (
        f"{row['config']:<66} {row['parameters'] / 1e6:7.2f} M [{published['parameters_m']}]  "
        f"{gmacs['layers'] + gmacs['rest']:7.1f} G [{published['gflops']}]  mixing {gmacs['mixing']:6.1f} G"
    )


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces the file by these rows, each with the command, the versions and the commit."""
    from importlib.metadata import version

    from .demo.machine import commit
    from .files import write_atomic

    about = {
        "command": "linzoo bench detection --save",
        "torch": version("torch"),
        "mmdet": version("mmdet"),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    write_atomic(path, "".join(json.dumps({**row, **about}) + "\n" for row in rows).encode())
    print(f"saved {len(rows)} rows to {path}")
