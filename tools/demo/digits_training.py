"""One small pyramid on the digits: the data, the model, and training that can be killed and goes on.

After every epoch a checkpoint replaces the last one. Order of the pictures and initial weights follow from
the seed and the epoch alone, so a run that was stopped ends with the same bits as one that was not.
"""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...vision.pyramid import Pyramid
from ..files import write_atomic
from ..training.digits import split_digits
from .context import Progress
from .store import PartStore


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures (n, 1, side, side) of mean 0 and deviation 1 over the training part; classes (n,)."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    mean: float
    deviation: float


def load_digits(settings: dict) -> Digits:
    """scikit-learn's 1,797 digits, enlarged bilinearly; every class is split in the same proportion."""
    pixels, labels, train, held_out = split_digits(settings["held_out"], settings["seed"])
    train = train[: settings["train_limit"]]
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=settings["side"], mode="bilinear", align_corners=False)
    labels = torch.from_numpy(labels)
    mean, deviation = images[train].mean().item(), images[train].std().item()
    images = (images - mean) / deviation
    return Digits(images[train], labels[train], images[held_out], labels[held_out], mean, deviation)


def build(mixer: str, settings: dict) -> Pyramid:
    """The pyramid with ``mixer`` in every stage, freshly initialised from the seed."""
    torch.manual_seed(settings["seed"])
    model = Pyramid(
        dims=settings["dims"],
        depths=settings["depths"],
        heads=settings["heads"],
        neck_dim=settings["neck_dim"],
        layer_scale=[1.0] * len(settings["dims"]),
        mixers=mixer,
        num_classes=10,
        in_chans=1,
    )
    return model.to(memory_format=torch.channels_last)  # a tenth faster on a CPU


def train(mixer: str, settings: dict, data: Digits, store: PartStore) -> dict:
    """Train, or finish training, and return what came out (also kept in ``store`` as ``mixer``).

    Returns: accuracy and ``missed`` (held-out index -> answer) after the last epoch, parameters, CPU seconds,
    and the ``history`` of loss, accuracy and CPU seconds after each epoch.
    """
    record = store.get(mixer)
    if record is not None:
        return record
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    model = build(mixer, settings)
    optimizer = create_optimizer_v2(model, "adamw", lr=settings["lr"], weight_decay=settings["weight_decay"])
    steps = len(data.train) // settings["batch"]
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=settings["epochs"] * steps,
        lr_min=settings["lr"] / 100,
        warmup_t=settings["warmup_epochs"] * steps,
        warmup_lr_init=settings["lr"] / 100,
        t_in_epochs=False,
    )
    checkpoint = store.path(f"{mixer}.pt")
    history = resume(checkpoint, model, optimizer)
    bar = Progress(f"digits, {mixer}", settings["epochs"] * steps, len(history) * steps)
    answers = None
    for epoch in range(len(history), settings["epochs"]):
        began = time.process_time()
        loss = train_epoch(model, optimizer, schedule, data, settings, epoch, bar)
        answers = predict(model, data.held_out)
        accuracy = (answers == data.held_out_labels).double().mean().item()
        history.append({"loss": loss, "accuracy": accuracy, "cpu_seconds": time.process_time() - began})
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        write_atomic(checkpoint, lambda file, state=state: torch.save(state, file))
        bar.say(f"held-out {100 * accuracy:.1f} %")
    bar.close(f"{100 * history[-1]['accuracy']:.1f} % of the held-out digits right")
    answers = predict(model, data.held_out) if answers is None else answers
    wrong = (answers != data.held_out_labels).nonzero().flatten().tolist()
    record = {
        "accuracy": history[-1]["accuracy"],
        "missed": {str(i): answers[i].item() for i in wrong},
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": sum(entry["cpu_seconds"] for entry in history),
        "history": history,
    }
    store.put(mixer, record)
    return record


def resume(checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict]:
    """Load the checkpoint, if there is one, into model and optimizer; returns the epochs it has behind it."""
    if not checkpoint.exists():
        return []
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def train_epoch(model, optimizer, schedule, data: Digits, settings: dict, epoch: int, bar: Progress) -> float:
    """One pass over shuffled batches (the last, incomplete one is left out); returns the mean loss."""
    model.train()
    batch = settings["batch"]
    steps = len(data.train) // batch
    order = torch.randperm(
        len(data.train), generator=torch.Generator().manual_seed(1000 * settings["seed"] + epoch)
    )
    total = 0.0
    for step in range(steps):
        schedule.step_update(epoch * steps + step)
        chosen = order[step * batch : (step + 1) * batch]
        logits = model(data.train[chosen])
        loss = F.cross_entropy(logits, data.train_labels[chosen], label_smoothing=settings["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        bar.advance()
    return total / steps


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(part).argmax(1) for part in images.split(256)])
