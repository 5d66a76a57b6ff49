"""``linzoo test-detection``: metrics that are right, files, test-time augmentation, refusals."""

import pickle

import pytest
import torch

pytest.importorskip("mmdet")

from linzoo.cli import main

from ..vision.detection import coco_set, small


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_set.write(tmp_path_factory.mktemp("coco"), count=3)


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    """A Mask R-CNN's config and untrained weights."""
    folder = tmp_path_factory.mktemp("detector")
    config = small.write_config(folder / "tested.py", data, "mask-rcnn")
    return config, small.write_weights(folder / "weights.pth", config)


def refused(capsys, *argv) -> str:
    assert main(["test-detection", *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_metrics_are_printed_and_pictures_and_predictions_are_written(detector, data, tmp_path, capsys):
    config, weights = detector
    argv = ["--work-dir", tmp_path / "work", "--out", tmp_path / "found.pkl", "--show-dir", "shown"]
    assert main(["test-detection", *map(str, (config, weights, *argv))]) == 0
    printed = capsys.readouterr().out
    assert "coco/bbox_mAP " in printed and "coco/segm_mAP " in printed
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert [f["img_id"] for f in found] == [1, 2, 3]
    assert {"bboxes", "scores", "labels", "masks"} <= found[0]["pred_instances"].keys()
    shown = sorted(p.name for p in (tmp_path / "work").glob("*/shown/*"))
    assert shown == sorted(p.name for p in data.images.iterdir())


class Oracle(torch.nn.Module):
    """Finds exactly what was pasted: a detector whose AP is 1."""

    def __init__(self, content: dict) -> None:
        super().__init__()
        self.content = content

    def test_step(self, batch: dict) -> list:
        from mmengine.structures import InstanceData
        from pycocotools.mask import decode, frPyObjects

        for sample in batch["data_samples"]:
            records = [r for r in self.content["annotations"] if r["image_id"] == sample.img_id]
            boxes = torch.tensor([r["bbox"] for r in records], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            codes = [frPyObjects(r["segmentation"], *r["segmentation"]["size"]) for r in records]
            masks = torch.stack([torch.from_numpy(decode(code)) for code in codes]).bool()
            labels = torch.tensor([r["category_id"] - 1 for r in records])
            sample.pred_instances = InstanceData(
                bboxes=boxes, labels=labels, masks=masks, scores=torch.ones(len(records))
            )
        return batch["data_samples"]


def test_a_detector_that_finds_what_was_pasted_scores_one(detector, data, tmp_path, monkeypatch, capsys):
    from mmengine.runner import Runner

    config, weights = detector
    monkeypatch.setattr(Runner, "build_model", lambda self, model: Oracle(data.content))
    monkeypatch.setattr(Runner, "load_checkpoint", lambda self, *args, **kwargs: None)
    assert main(["test-detection", str(config), str(weights), "--work-dir", str(tmp_path / "perfect")]) == 0
    printed = capsys.readouterr().out
    assert "coco/bbox_mAP 1.0\n" in printed and "coco/segm_mAP 1.0\n" in printed


def test_flipped_pictures_are_looked_at_too(detector, data, tmp_path, monkeypatch, capsys):
    from mmdet.models import DetTTAModel

    seen = []
    merge = DetTTAModel.merge_preds
    monkeypatch.setattr(
        DetTTAModel, "merge_preds", lambda self, samples: seen.append(samples) or merge(self, samples)
    )
    assert "mmdetection cannot merge masks" in refused(capsys, *detector, "--tta")
    config = small.write_config(tmp_path / "boxes.py", data)
    weights = small.write_weights(tmp_path / "boxes.pth", config)
    argv = [str(config), str(weights), "--tta", "--work-dir", str(tmp_path / "work")]
    assert main(["test-detection", *argv]) == 0
    (pair,) = seen[0]
    assert sorted(sample.flip for sample in pair) == [False, True]
    assert "coco/bbox_mAP " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "found.json"], "--out must end in .pkl or .pickle, got 'found.json'"),
        (["--out", "nowhere/found.pkl"], "--out: its folder must be there"),
        (["--cfg-options", "test_dataloader.dataset.ann_file=x.json"], "x.json is not there"),
        (
            ["--show-dir", "x", "--cfg-options", "default_hooks.visualization=None"],
            "default_hooks.visualization",
        ),
        (["--cfg-options", "model.backbone.dims=[16,32,48,96]"], "weights.pth does not fit the model"),
    ],
    ids=["out-suffix", "out-folder", "annotations", "no-hook", "another-size"],
)
def test_a_wrong_request_is_named_before_anything_is_written(argv, message, detector, tmp_path, capsys):
    assert message in refused(capsys, *detector, "--work-dir", tmp_path / "work", *argv)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_not_there_is_named(detector, capsys):
    assert "CHECKPOINT must be a checkpoint file, nowhere.pth" in refused(capsys, detector[0], "nowhere.pth")
