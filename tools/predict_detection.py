"""``linzoo predict-detection IMAGE|FOLDER CONFIG CHECKPOINT``: boxes and masks, drawn and as json."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .detection.config import add_config_arguments, read_config
from .detection.running import faults_named
from .files import check_writable, write_json
from .predict import pick_device

if TYPE_CHECKING:
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from torch import nn

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
PALETTES = ("coco", "voc", "citys", "random", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", metavar="IMAGE|FOLDER", type=Path, help="a picture or a folder of pictures")
    add_config_arguments(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="weights: ours or the authors'")
    parser.add_argument(
        "--out-dir", type=Path, default=Path("outputs"), metavar="DIR", help="default outputs"
    )
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        metavar="P",
        help="lowest score to draw and write (default 0.3)",
    )
    parser.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda:1")
    parser.add_argument("--palette", choices=PALETTES, default="none", help="colours (default: the config's)")
    parser.add_argument("--no-save-vis", action="store_true", help="write no pictures")
    parser.add_argument("--no-save-pred", action="store_true", help="write no json")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr must be between 0 and 1, got {args.score_thr}")
    pictures = find_pictures(args.inputs)
    cfg = read_config(args.config, args.cfg_options)
    model = load_detector(cfg, args.checkpoint, pick_device(args.device), args.palette)
    check_writable(args.out_dir, "--out-dir")
    classes = model.dataset_meta["classes"]
    draw = None if args.no_save_vis else make_drawer(cfg, model)
    for picture in pictures:
        with faults_named():
            found = detect(model, picture, args.score_thr)
        # the suffix stays: a.png and a.jpg are two pictures
        if not args.no_save_pred:
            write_json(args.out_dir / "preds" / f"{picture.name}.json", as_json(picture, found, classes))
        if draw:
            draw(picture, found, args.out_dir / "vis" / f"{picture.name}.png")
        print(f"{picture}: {summary(found, classes)}", flush=True)
    return 0


def find_pictures(inputs: Path) -> list[Path]:
    """The picture, or those in the folder by name. Raises: FileNotFoundError, ValueError."""
    from .detection.data_checks import check_picture

    if inputs.is_dir():
        found = sorted(path for path in inputs.iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise FileNotFoundError(f"FOLDER must hold pictures ({', '.join(SUFFIXES)}), {inputs} has none")
    elif inputs.is_file():
        found = [inputs]
    else:
        raise FileNotFoundError(f"IMAGE must be a picture or a folder, {inputs} is not there")
    for path in found:
        check_picture(path)
    return found


def load_detector(cfg: Config, checkpoint: Path, device: torch.device, palette: str) -> nn.Module:
    """mmdetection's detector, ready; classes as the checkpoint names them, else as the config does.

    Raises: ValueError listing names and shapes that do not fit.
    """
    from mmdet.apis import init_detector

    from .detection.data_checks import classes_of, datasets
    from .detection.model_checks import check_fit, meta_detector, read_checkpoint, weights_of

    model = meta_detector(cfg)
    content = read_checkpoint(checkpoint, "CHECKPOINT")
    state = weights_of(content, model, f"CHECKPOINT {checkpoint}")
    check_fit(state, model, f"CHECKPOINT {checkpoint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that COCO's classes are taken for a file without any: not here
        detector = init_detector(cfg, str(checkpoint), palette=palette, device=str(device))
    if not {"dataset_meta", "CLASSES"} & (content.get("meta") or {}).keys():
        setting, dataset = next(datasets(cfg.test_dataloader.dataset, "test_dataloader.dataset"))
        detector.dataset_meta["classes"] = classes_of(dataset, setting)
    return detector


def detect(model: nn.Module, picture: Path, score_thr: float) -> DetDataSample:
    """What is found in a picture with a score of at least ``score_thr``, best first, on the CPU."""
    from mmdet.apis import inference_detector

    found = inference_detector(model, str(picture)).cpu()
    instances = found.pred_instances
    instances = instances[instances.scores >= score_thr]
    found.pred_instances = instances[instances.scores.argsort(descending=True)]
    return found


def as_json(picture: Path, found: DetDataSample, classes: tuple[str, ...]) -> dict:
    """Boxes as x1, y1, x2, y2 in pixels of the picture; masks in COCO's run-length code."""
    from mmdet.structures.mask import encode_mask_results

    instances = found.pred_instances
    labels = instances.labels.tolist()
    content = {
        "image": str(picture),
        "size": list(found.ori_shape),
        "labels": labels,
        "classes": [classes[label] for label in labels],
        "scores": instances.scores.tolist(),
        "bboxes": instances.bboxes.tolist(),
    }
    if "masks" in instances:
        codes = encode_mask_results(instances.masks.numpy())
        content["masks"] = [{"size": code["size"], "counts": code["counts"].decode()} for code in codes]
    return content


def make_drawer(cfg: Config, model: nn.Module):
    """A function that writes a picture with boxes, masks and names."""
    import mmcv
    from mmdet.registry import VISUALIZERS

    settings = {
        **cfg.get("visualizer", {"type": "DetLocalVisualizer"}),
        "name": "linzoo",
        "vis_backends": None,
    }
    visualizer = VISUALIZERS.build(settings)
    visualizer.dataset_meta = model.dataset_meta

    def draw(picture: Path, found: DetDataSample, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        image = mmcv.imread(str(picture), channel_order="rgb")
        visualizer.add_datasample(
            picture.name, image, found, draw_gt=False, pred_score_thr=0.0, out_file=str(target)
        )

    return draw


def summary(found: DetDataSample, classes: tuple[str, ...]) -> str:
    """ "2 cat, 1 cup", or "nothing"."""
    labels = found.pred_instances.labels.tolist()
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    return ", ".join(f"{count} {classes[label]}" for label, count in counts.items()) or "nothing"
