"""One size of each family learns a fixed batch, is saved, goes on as if never stopped, and is evaluated."""

import math

import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...sampling import sampled
from . import coco_set, small

DETECTORS = {
    "ravlt_tiny": "mask-rcnn",
    "mala_tiny": "retinanet",
    "nalaformer_tiny": "retinanet",
    "l2vit_tiny": "retinanet",
    "inline_swin_tiny": "retinanet",
    "lightnet_tiny": "mask-rcnn",
    "efficientvim_m1": "retinanet",
}
ITERATIONS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_set.write(tmp_path_factory.mktemp("coco"))


class SeedOfIteration(Hook):
    """The same draws (drop path, sampled anchors) in an iteration, whether it follows others or a resume."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        torch.manual_seed(runner.iter)


def run(path, work_dir, name: str, **changes) -> Runner:
    """The runner after training; ``name`` keeps the loggers of this process apart."""
    cfg = Config.fromfile(str(path))
    cfg.merge_from_dict({"work_dir": str(work_dir), "experiment_name": name, "log_level": "ERROR", **changes})
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SeedOfIteration())
    runner.train()
    return runner


def losses(runner: Runner) -> list[float]:
    return runner.message_hub.get_scalar("train/loss").data[0].tolist()


@pytest.mark.parametrize(
    "name", sampled(small.BACKBONES, ["ravlt_tiny", "inline_swin_tiny", "efficientvim_m1"])
)
def test_a_detector_learns_a_batch_resumes_exactly_and_is_evaluated(name, data, tmp_path):
    path = small.write_config(
        tmp_path / "config.py", data, DETECTORS[name], {"model_name": name, **small.BACKBONES[name]}
    )
    changes = {"train_cfg.max_iters": ITERATIONS, "train_cfg.val_interval": ITERATIONS,
               "default_hooks.checkpoint.interval": ITERATIONS - 2}  # fmt: skip
    first = run(path, tmp_path / "work", f"{name} first", **changes)
    seen = losses(first)
    assert len(seen) == ITERATIONS
    assert all(map(math.isfinite, seen))
    assert sum(seen[-3:]) < 0.7 * sum(seen[:3]), seen

    saved = tmp_path / "work" / f"iter_{ITERATIONS - 2}.pth"
    again = run(path, tmp_path / "again", f"{name} again", resume=True, load_from=str(saved), **changes)
    assert losses(again) == pytest.approx(seen, rel=1e-4)  # the history, then two new ones
    assert again.iter == ITERATIONS

    metrics = first.message_hub.log_scalars
    assert 0 <= metrics["val/coco/bbox_mAP"].current() <= 1


def test_every_weight_of_the_detector_gets_a_gradient(data, tmp_path):
    path = small.write_config(tmp_path / "config.py", data, "mask-rcnn")
    cfg = Config.fromfile(str(path))
    runner = Runner.from_cfg(Config({**cfg, "work_dir": str(tmp_path), "experiment_name": "gradients"}))
    model = runner.model
    batch = next(iter(runner.build_dataloader(cfg.train_dataloader, seed=0)))
    batch = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert all(torch.count_nonzero(p.grad) for key, p in model.named_parameters() if "out_norms" in key)
