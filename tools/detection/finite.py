"""Ends the training of a detector whose loss or weights are NaN or infinite; mmengine would go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmengine.hooks import Hook

from ..training.checkpoint import find_bad_weight

if TYPE_CHECKING:
    from mmengine.runner import Runner

INTERVAL = 50  # iterations between looks at the loss: each waits for the device


class Diverged(ArithmeticError):
    """The loss or a weight is NaN or infinite: there is no use in going on."""


class FiniteHook(Hook):
    """Raises Diverged for a loss that is no number, and for weights that are none before they are written."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        if not self.every_n_train_iters(runner, INTERVAL):
            return
        loss = (outputs or {}).get("loss")
        if loss is not None and not loss.isfinite().all():
            raise Diverged(f"the loss is NaN or infinite at iteration {runner.iter + 1}")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        bad = find_bad_weight(checkpoint["state_dict"])
        if bad is not None:
            raise Diverged(f"weight {bad} is NaN or infinite after iteration {checkpoint['meta']['iter']}")
