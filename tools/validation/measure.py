"""Accuracy, loss and pictures a second of one model."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(slots=True)
class Measured:
    """Sums over the pictures seen.

    Args:
        correct: right answers by k, among the k most likely.
        loss: sum of the cross-entropies, in nats.
        seconds: wall time of reading and computing, from the first batch's wait to the last answer.
    """

    correct: dict[int, int]
    pictures: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    real: dict[int, float] = field(default_factory=dict)  # accuracy by reassessed labels, in percent

    def add(self, logits: Tensor, target: Tensor) -> None:
        logits = logits.float()
        best = logits.topk(min(max(self.correct), logits.shape[1])).indices
        hits = best == target[:, None]
        for k in self.correct:
            self.correct[k] += int(hits[:, :k].sum())
        self.loss += F.cross_entropy(logits, target, reduction="sum").item()
        self.pictures += len(target)

    def accuracy(self, k: int) -> float:
        """Percent of the pictures; by the reassessed labels where those were asked for."""
        return self.real[k] if self.real else 100 * self.correct[k] / self.pictures


def measure(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    autocast: Callable[[], AbstractContextManager],
    topk: Sequence[int] = (1, 5),
    valid_labels: Sequence[int] | None = None,
    real: Any = None,
    log: Callable[[int, Measured], None] = lambda batch, measured: None,
) -> Measured:
    """Every batch of ``loader`` through ``model``.

    Args:
        loader: (pictures, classes); on any device.
        valid_labels: the classes whose logits count, in the order of the data set's classes.
        real: timm's RealLabelsImagenet; its accuracies replace those of the data set's classes.
        log: called after each batch.
    Raises: ValueError for a class that the model does not have, logits that are not finite, or no picture.
    """
    measured = Measured(dict.fromkeys(topk, 0))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    began = time.perf_counter()
    with torch.inference_mode():
        for number, (pictures, target) in enumerate(loader, 1):
            pictures = pictures.to(device, dtype).contiguous(memory_format=memory_format)
            target = target.to(device)
            with autocast():
                logits = model(pictures)
            logits = logits if valid_labels is None else logits[:, list(valid_labels)]
            check_batch(logits, target, measured.pictures)
            measured.add(logits, target)
            if real is not None:
                real.add_result(logits)
            measured.seconds = time.perf_counter() - began
            log(number, measured)
    if not measured.pictures:
        raise ValueError("the data set must have at least one picture, it has none")
    if real is not None:
        measured.real = real.get_accuracy()
    return measured


def check_batch(logits: Tensor, target: Tensor, before: int) -> None:
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= logits.shape[1]:
        worst = high if high >= logits.shape[1] else low
        raise ValueError(f"classes must be 0 to {logits.shape[1] - 1}, the model's; a picture has {worst}")
    bad = ~logits.isfinite().all(1)
    if bad.any():
        first = before + int(bad.nonzero()[0])
        raise ValueError(
            f"the model's logits must be finite, they are NaN or Inf for {int(bad.sum())} of {len(bad)} "
            f"pictures (first: number {first}); in float16, try bfloat16 or float32"
        )


def log_line(name: str, every: int, batches: int | None) -> Callable[[int, Measured], None]:
    """Prints to stderr after the first and every ``every``-th batch what there is so far."""

    def log(batch: int, so_far: Measured) -> None:
        if batch != 1 and batch % every:
            return
        of = f"/{batches}" if batches else ""
        tops = "  ".join(
            f"Acc@{k}: {100 * right / so_far.pictures:7.3f}" for k, right in so_far.correct.items()
        )
        rate = so_far.pictures / so_far.seconds
        loss = so_far.loss / so_far.pictures
        print(
            f"{name}: [{batch}{of}]  {rate:.1f} img/s  Loss: {loss:.4f}  {tops}", file=sys.stderr, flush=True
        )

    return log
