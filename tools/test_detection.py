"""``linzoo test-detection CONFIG CHECKPOINT``: mmdetection's evaluation, with data and weights checked first.

The flags are those of mmdetection's ``tools/test.py``.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from .detection.config import add_config_arguments, find_config, read_config
from .detection.running import add_launch_arguments, faults_named, make_runner, set_launch, set_work_dir
from .files import check_writable

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="the detector's weights: ours or the authors'"
    )
    add_launch_arguments(parser)
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions, for other evaluations")
    parser.add_argument("--show", action="store_true", help="show every picture in a window")
    parser.add_argument("--show-dir", metavar="DIR", help="write the pictures with what was found")
    parser.add_argument("--wait-time", type=float, default=2, metavar="S", help="of --show (default 2)")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: flipped pictures too")


def run(args: argparse.Namespace) -> int:
    check_out(args.out)
    cfg = read_config(args.config, args.cfg_options)
    work_dir = prepare(cfg, args)
    check_writable(work_dir, "--work-dir")
    runner = make_runner(cfg)
    if args.out:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    with faults_named():
        metrics = runner.test()
    for name, value in (metrics or {}).items():
        print(f"{name} {value}")
    if not metrics:
        print("no metrics: nothing was found in any picture, or the evaluator only writes files")
    return 0


def check_out(out: str | None) -> None:
    if out is None:
        return
    if not out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out must end in .pkl or .pickle, got {out!r}")
    if not Path(out).parent.is_dir():
        raise FileNotFoundError(f"--out: its folder must be there, {Path(out).parent} is not")


def prepare(cfg: Config, args: argparse.Namespace) -> Path:
    """The flags into ``cfg``, data and weights checked; returns the work dir."""
    from .detection.data_checks import check_data
    from .detection.model_checks import check_fit, meta_detector, read_checkpoint, weights_of

    work_dir = set_work_dir(cfg, args.work_dir, find_config(args.config).stem)
    set_launch(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    check_data(cfg, ["test_dataloader"])
    if "://" not in args.checkpoint:
        model = meta_detector(cfg)
        state = weights_of(read_checkpoint(args.checkpoint, "CHECKPOINT"), model, args.checkpoint)
        check_fit(state, model, f"CHECKPOINT {args.checkpoint}")
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    return work_dir


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise ValueError("--show, --show-dir: the config must have default_hooks.visualization")
    hook["draw"] = True
    if args.show:
        hook["show"], hook["wait_time"] = True, args.wait_time
    if args.show_dir:
        hook["test_out_dir"] = args.show_dir


def set_tta(cfg: Config) -> None:
    """The config's ``tta_model`` and ``tta_pipeline``, else mmdetection's: each picture and its mirror.

    Raises: ValueError for a model with masks, which mmdetection cannot merge.
    """
    from mmengine.config import ConfigDict

    from .detection.data_checks import head_counts

    if any("mask_head" in place for place, _ in head_counts(cfg.model, "model")):
        raise ValueError("--tta: the model must find boxes only, mmdetection cannot merge masks")
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    if "tta_model" not in cfg:
        nms = {"type": "nms", "iou_threshold": 0.5}
        cfg.tta_model = {"type": "DetTTAModel", "tta_cfg": {"nms": nms, "max_per_img": 100}}
    if "tta_pipeline" not in cfg:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
        flips = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
        packed = [{"type": "PackDetInputs", "meta_keys": keys}]
        cfg.tta_pipeline = [
            *deepcopy(dataset.pipeline[:-1]),
            {"type": "TestTimeAug", "transforms": [flips, packed]},
        ]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
