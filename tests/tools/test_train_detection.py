"""``linzoo train-detection``: what it trains, says, and refuses before anything is written."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("mmdet")

from linzoo.cli import main

from ..vision.detection import coco_set, small

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_set.write(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    return small.write_config(tmp_path_factory.mktemp("configs") / "small.py", data)


def refused(capsys, *argv) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert main(["train-detection", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "training" not in captured.out
    return line


# training


def test_it_trains_says_little_and_goes_on_from_the_latest_checkpoint(data, tmp_path, capsys):
    path = small.write_config(tmp_path / "trained.py", data)
    work = tmp_path / "work"
    # mmengine logs a line a parameter for this
    options = ["--cfg-options", "optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult=0.0"]
    assert main(["train-detection", str(path), "--work-dir", str(work), *options]) == 0
    assert "LOCAL_RANK" not in os.environ  # a later run by accelerate would take it for a launcher's
    printed = capsys.readouterr().out
    assert f"training trained, logs and checkpoints in {work}" in printed
    assert "loss:" in printed and "bbox_mAP" in printed
    assert "paramwise_options" not in printed and "init_weights" not in printed and "Config:" not in printed
    (log,) = work.glob("*/*.log")
    assert "paramwise_options" in log.read_text() and "init_weights" in log.read_text()
    assert (work / "iter_2.pth").is_file()

    first = (work / "iter_2.pth").read_bytes()
    again = ["--work-dir", str(work), *options, "train_cfg.max_iters=3"]
    assert "holds the checkpoints of a run; --resume goes on" in refused(capsys, path, *again)
    assert main(["train-detection", str(path), *again, "--resume"]) == 0
    assert "resumed epoch: 0, iter: 2" in capsys.readouterr().out
    assert (work / "iter_3.pth").is_file()
    assert (work / "iter_2.pth").read_bytes() == first

    line = refused(capsys, path, "--work-dir", tmp_path / "other", "--resume", work / "iter_3.pth",
                   "--cfg-options", "model.backbone.dims=[16,32,48,96]")  # fmt: skip
    assert "--resume" in line and "does not fit the model of the config" in line and "must be" in line
    assert not (tmp_path / "other").exists()


def test_a_detector_of_other_classes_starts_from_a_checkpoint_but_cannot_resume_it(data, tmp_path, capsys):
    from linzoo.tools.detection.config import read_config
    from linzoo.tools.detection.model_checks import meta_detector

    path = small.write_config(tmp_path / "tuned.py", data)
    other = read_config(str(path), ["model.bbox_head.num_classes=5"])
    weights = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in meta_detector(other).state_dict().items()}
    torch.save({"state_dict": weights, "meta": {}, "optimizer": {}}, tmp_path / "five.pth")
    line = refused(capsys, path, "--resume", tmp_path / "five.pth", "--work-dir", tmp_path / "w")
    assert "bbox_head.retina_cls.weight is (45, 32, 3, 3), must be (18, 32, 3, 3)" in line
    options = ["--cfg-options", f"load_from={tmp_path / 'five.pth'}", "train_cfg.max_iters=1"]
    assert main(["train-detection", str(path), "--work-dir", str(tmp_path / "w"), *options]) == 0


@pytest.mark.slow
def test_mmdetection_s_own_tool_trains_the_config(config, tmp_path):
    code = (
        "import runpy, sys, mmdet\n"
        f"sys.argv = ['train.py', {str(config)!r}, '--work-dir', {str(tmp_path / 'work')!r}]\n"
        "runpy.run_path(mmdet.__path__[0] + '/.mim/tools/train.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "work" / "iter_2.pth").is_file()
    assert "coco/bbox_mAP" in done.stdout


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_picture_ends_the_run_with_one_line(tmp_path, capsys, workers):
    data = coco_set.write(tmp_path / "coco")
    picture = data.images / "003.png"
    picture.write_bytes(picture.read_bytes()[:4000])
    path = small.write_config(tmp_path / "cut.py", data)
    work = tmp_path / "work"
    options = ["--cfg-options", "train_dataloader.batch_size=2", f"train_dataloader.num_workers={workers}"]
    assert main(["train-detection", str(path), "--work-dir", str(work), *options]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"cannot read {picture}: damaged or truncated; " in line
    assert f"the last checkpoint is {work / 'iter_1.pth'} (--resume goes on)" in line


@pytest.mark.parametrize(("interval", "what"), [(50, "weight"), (1, "the loss is NaN")])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(
    tmp_path, capsys, monkeypatch, interval, what
):
    from linzoo.tools.detection import finite

    monkeypatch.setattr(finite, "INTERVAL", interval)
    path = small.write_config(tmp_path / "steep.py", coco_set.write(tmp_path / "coco"), iterations=9)
    work = tmp_path / "work"
    options = ["optim_wrapper.optimizer.lr=1e20", "optim_wrapper.clip_grad=None"]
    options += ["default_hooks.checkpoint.interval=2"] if interval == 1 else []
    assert main(["train-detection", str(path), "--work-dir", str(work), "--cfg-options", *options]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"linzoo train-detection: {what}") and "checkpoint" in line
    for file in work.glob("*.pth"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(v.isfinite().all() for v in state.values()), file


# flags


@needs_no_gpu
def test_mixed_precision_of_a_config_is_off_without_a_gpu_and_refused_as_a_flag(config, tmp_path, capsys):
    from linzoo.tools import train_detection

    amp = [
        "optim_wrapper.type=AmpOptimWrapper",
        "optim_wrapper.loss_scale=512.",
        "optim_wrapper.dtype=float16",
    ]
    parser_args = parse(str(config), "--work-dir", str(tmp_path / "w"), "--cfg-options", *amp)
    cfg = train_detection.read_config(parser_args.config, parser_args.cfg_options)
    train_detection.prepare(cfg, parser_args)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert not {"loss_scale", "dtype"} & cfg.optim_wrapper.keys()
    assert "mixed precision (AmpOptimWrapper) is off" in capsys.readouterr().err
    assert "--amp needs a GPU" in refused(capsys, config, "--amp", "--work-dir", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def parse(*argv):
    from linzoo.cli import build_parser

    return build_parser("train-detection").parse_args(["train-detection", *argv])


def test_the_learning_rate_is_scaled_when_asked_for(config, tmp_path, capsys):
    from linzoo.tools import train_detection

    args = parse(str(config), "--auto-scale-lr", "--work-dir", str(tmp_path / "w"))
    cfg = train_detection.read_config(args.config)
    train_detection.prepare(cfg, args)
    assert cfg.auto_scale_lr == {"enable": True, "base_batch_size": 8}
    line = refused(capsys, config, "--auto-scale-lr", "--cfg-options", "auto_scale_lr=None")
    assert "the config must have auto_scale_lr.base_batch_size" in line


@needs_no_gpu
@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_several_processes_need_gpus(launcher, config, capsys):
    assert "--launcher must be none on a machine without a GPU" in refused(
        capsys, config, "--launcher", launcher
    )


def test_a_launcher_that_has_not_started_us_is_named(monkeypatch, config, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("RANK", raising=False)
    assert "RANK is not set; start several processes" in refused(capsys, config, "--launcher", "pytorch")


def test_conversion_to_sync_bn_is_refused_where_activations_would_be_lost():
    from mmdet.registry import MODELS

    import linzoo.vision.detection  # noqa: F401
    from linzoo.tools.detection.model_checks import check_sync_bn

    def backbone(name):
        return MODELS.build({"type": "LinzooBackbone", "model_name": name})

    check_sync_bn(backbone("ravlt_tiny"))
    model = backbone("mobilenetv3_small_050").eval()
    with pytest.raises(ValueError, match=r"activations in .* would be lost"):
        check_sync_bn(model)
    x = torch.randn(1, 3, 64, 64)  # the reason: torch's conversion changes the outputs
    before = model(x)[-1]
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    assert not torch.allclose(before, converted(x)[-1])


def test_a_packaged_config_is_found_by_its_name():
    from linzoo.tools.detection.config import find_config, packaged

    name = next(iter(packaged()))
    assert find_config(name) == find_config(f"{name}.py") == packaged()[name]
    assert find_config(name).is_file()


# refusals, with nothing written


CONFIG_FAULTS = {
    "no-setting": (["trian_cfg.max_iters=3"], "has no 'trian_cfg', so trian_cfg.max_iters would do nothing; "
                   "did you mean train_cfg?"),
    "no-value": (["model.backbone"], "--cfg-options must be KEY=VALUE, got 'model.backbone'"),
    "backbone-key": (["model.backbone.mixer=linear"], "has no argument 'mixer'; did you mean mixers"),
    "model-name": (["model.backbone.model_name=ravlt_tinny"], "did you mean ravlt_tiny"),
    "neck-type": (["model.neck.type=FNP"], "FNP is not in the mmdet::model registry"),
    "weights": (["model.backbone.pretrained=nowhere.pth"],
                "model.backbone.pretrained: checkpoint must be a file, got 'nowhere.pth'"),
    "published": (["model.backbone.pretrained=True"], "model.backbone.pretrained: the published weights of "
                  "ravlt_tiny cannot be fetched; a file or False can stand there"),
    "load-from": (["load_from=nowhere.pth"], "load_from must be a checkpoint file, nowhere.pth is not there"),
    "classes": (["model.bbox_head.num_classes=80"], "model.bbox_head.num_classes must be 2, the number of "
                "classes of train_dataloader.dataset (cat, cup), got 80"),
    "annotations": (["train_dataloader.dataset.ann_file=nowhere.json"],
                    "train_dataloader.dataset.ann_file must be a file, nowhere.json is not there"),
    "pictures": (["train_dataloader.dataset.data_prefix.img=nowhere/"],
                 "train_dataloader.dataset.data_prefix.img must be a folder, nowhere is not there"),
    "validation": (["val_dataloader.dataset.ann_file=nowhere.json"],
                   "val_dataloader.dataset.ann_file must be a file, nowhere.json is not there"),
    "evaluator": (["val_evaluator.ann_file=nowhere.json"],
                  "val_evaluator.ann_file must be a file, nowhere.json is not there"),
    "data-set": (["train_dataloader.dataset.type=CoccoDataset"], "must be a data set known to mmdetection"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(CONFIG_FAULTS))
def test_a_wrong_setting_is_named_before_anything_is_written(fault, config, tmp_path, capsys):
    options, message = CONFIG_FAULTS[fault]
    line = refused(capsys, config, "--work-dir", tmp_path / "work", "--cfg-options", *options)
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_is_not_there_or_none_is_named(tmp_path, capsys):
    assert "did you mean retinanet_ravlt-tiny_fpn_1x_coco" in refused(
        capsys, "retinanet_ravlt-tiny_fpn_1x_cocco"
    )
    assert f"{tmp_path} is a folder" in refused(capsys, tmp_path)
    (tmp_path / "broken.py").write_text("model = dict(\n")
    assert "broken.py cannot be read: SyntaxError" in refused(capsys, tmp_path / "broken.py")
    (tmp_path / "other.py").write_text("lr = 1e-3\n")
    assert "must have model and test_dataloader" in refused(capsys, tmp_path / "other.py")


def test_a_work_dir_that_cannot_be_written_to_is_named(config, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    line = refused(capsys, config, "--work-dir", tmp_path / "file" / "work")
    assert "--work-dir must be a folder that can be written to" in line
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_checkpoint_that_is_damaged_or_would_run_code_is_refused(config, tmp_path, capsys):
    (tmp_path / "damaged.pth").write_bytes(b"no checkpoint")
    assert "--resume: " in refused(capsys, config, "--resume", tmp_path / "damaged.pth")
    torch.save({"state_dict": {}, "x": subprocess.Popen}, tmp_path / "code.pth")
    line = refused(capsys, config, "--resume", tmp_path / "code.pth")
    assert "could run code when loaded" in line
    torch.save({"state_dict": {}, "meta": {}, "optimizer": {}}, tmp_path / "empty.pth")
    assert "is missing" in refused(capsys, config, "--resume", tmp_path / "empty.pth")


def test_a_missing_extra_names_the_pip_command(config, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mmdet", None)
    assert 'mmdet is not installed: pip install "linzoo[detection]"' in refused(capsys, config)
