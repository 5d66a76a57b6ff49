"""A small RetinaNet on an all-linear pyramid, trained on scenes; a killed run goes on to the same bits.

The scenes and the initial weights follow from the seed and the step alone; a checkpoint replaces the last one
every few steps.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomic
from .context import Progress
from .detection_scenes import CLASSES, SEEN, UNSEEN, Scene, Scenes, as_batch
from .store import PartStore

if TYPE_CHECKING:
    from torch import nn

CONFIG = "retinanet_ravlt-tiny_fpn_1x_coco"
TRAINING, TESTING = 0, 1  # first part of a scene's number


def build(settings: dict) -> tuple[nn.Module, dict]:
    """The packaged config, cut down, freshly initialised from the seed; and its preprocessor's settings."""
    import torch

    from ..detection.config import read_config

    config = read_config(CONFIG).model
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    widths, channels = settings["dims"], settings["channels"]
    config.backbone.update(
        dims=widths, heads=settings["heads"], depths=settings["depths"], layer_scale=[1.0] * len(widths),
        mixers="linear", out_indices=(1, 2), drop_path_rate=0.0, pretrained=False,
    )  # fmt: skip
    config.neck.update(in_channels=widths[1:], out_channels=channels, start_level=0, num_outs=3)
    head = config.bbox_head
    head.update(num_classes=len(CLASSES), in_channels=channels, feat_channels=channels, stacked_convs=1)
    head.anchor_generator.update(strides=[8, 16, 32], scales_per_octave=2)
    config.test_cfg.nms.update(class_agnostic=True)  # objects of two classes never lie on each other here
    torch.manual_seed(settings["seed"])
    if not MMLogger.check_instance_created("linzoo demo"):  # else a line for every initialised weight
        MMLogger.get_instance("linzoo demo", log_level="WARNING")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config)
        model.init_weights()
    return model, config.data_preprocessor


def train(settings: dict, store: PartStore) -> dict:
    """Train, or finish training, test, and return what came out (also kept in ``store`` as "detector").

    Returns: losses of all steps, parameters, CPU seconds, and what ``test`` returns.
    """
    record = store.get("detector")
    if record is not None:
        return record
    import torch
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    began = time.process_time()
    model, preprocessor = build(settings)
    optimizer = create_optimizer_v2(model, "adamw", lr=settings["lr"], weight_decay=settings["weight_decay"])
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=settings["steps"],
        lr_min=settings["lr"] / 100,
        warmup_t=settings["steps"] // 8,
        warmup_lr_init=settings["lr"] / 100,
        t_in_epochs=False,
    )
    checkpoint = store.path("detector.pt")
    losses, spent = resume(checkpoint, model, optimizer)
    bar = Progress("detection, training", settings["steps"], len(losses))
    scenes = Scenes(settings["side"], SEEN)
    model.train()
    for step in range(len(losses), settings["steps"]):
        schedule.step_update(step)
        losses.append(train_step(model, optimizer, scenes, step, settings, preprocessor))
        bar.advance()
        bar.say(f"loss {losses[-1]:.2f}")
        if (step + 1) % settings["save_every"] == 0:
            seconds = spent + time.process_time() - began
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"losses": losses, "cpu_seconds": seconds}
            write_atomic(checkpoint, lambda file, state=state: torch.save(state, file))
    found = test(model, settings, preprocessor)
    bar.close(f"AP {100 * found['ap']['']:.1f} on {settings['test_scenes']} scenes")
    seconds = spent + time.process_time() - began
    record = {
        "losses": losses,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
    }
    store.put("detector", record | found)
    return record | found


def resume(checkpoint: Path, model: nn.Module, optimizer: Any) -> tuple[list[float], float]:
    """Load the checkpoint, if there is one; returns the losses of its steps and its CPU seconds."""
    import torch

    if not checkpoint.exists():
        return [], 0.0
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"], state["cpu_seconds"]


def train_step(
    model: nn.Module, optimizer: Any, scenes: Scenes, step: int, settings: dict, preprocessor: dict
) -> float:
    import torch

    batch = [scenes[settings["seed"], TRAINING, step, i] for i in range(settings["batch"])]
    images, samples = as_batch(batch, preprocessor)
    losses, _ = model.parse_losses(model.loss(images, samples))
    optimizer.zero_grad()
    losses.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    optimizer.step()
    return losses.item()


def test_scenes(settings: dict) -> list[Scene]:
    """Scenes on a texture that training has not seen."""
    scenes = Scenes(settings["side"], UNSEEN)
    return [scenes[settings["seed"], TESTING, i] for i in range(settings["test_scenes"])]


def test(model: nn.Module, settings: dict, preprocessor: dict) -> dict:
    """COCO's average precision, the count of objects, and what was found in every scene.

    ``found``: for every scene a list of [x0, y0, x1, y1, score, class] with a score over ``shown_score``.
    """
    import torch

    model.eval()
    scenes, results, shown = test_scenes(settings), [], []
    for number, scene in enumerate(scenes):
        images, samples = as_batch([scene], preprocessor)
        with torch.inference_mode():
            found = model.predict(images, samples)[0].pred_instances
        rows = torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None]], 1)
        shown.append(
            [[round(v, 3) for v in row] for row in rows.tolist() if row[4] > settings["shown_score"]]
        )
        truth = [
            {"bbox": box, "bbox_label": label}
            for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True)
        ]
        results.append(
            {
                "img_id": number,
                "ori_shape": scene.pixels.shape[:2],
                "pred_instances": found,
                "instances": truth,
            }
        )
    objects = sum(len(scene.labels) for scene in scenes)
    return {"ap": average_precision(results), "objects": objects, "found": shown}


def average_precision(results: list[dict]) -> dict[str, float]:
    """COCO's measures by mmdetection's metric: mean over overlaps of 0.5 to 0.95, at 0.5, at 0.75."""
    if not any(len(result["pred_instances"]) for result in results):
        return {"": 0.0, "_50": 0.0, "_75": 0.0}  # the metric gives no figures then
    import contextlib
    import io

    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(metric="bbox")
    metric.dataset_meta = {"classes": CLASSES}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its table
        metric.process({}, results)
        measures = metric.evaluate(len(results))
    return {key: float(measures[f"coco/bbox_mAP{key}"]) for key in ("", "_50", "_75")}
