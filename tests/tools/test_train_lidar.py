"""``linzoo train`` of LiDAR detectors in one process: who trains, on what, how fast, from what weights."""

import argparse
import json
import math

import pytest
import torch

from linzoo.pointcloud import create_detector
from linzoo.pointcloud.checkpoints import to_official
from linzoo.tools import train, train_lidar, validate, validate_lidar
from linzoo.tools.lidar import optim
from linzoo.tools.lidar.batches import TrainingFrames, UpdateBatches, collate
from linzoo.tools.lidar.datasets import ClassBalanced, augment_options, open_frames, open_paste
from linzoo.tools.runs.plan import Item, Plan

from ..pointcloud.lidar_folders import scenes, write_kitti
from .lidar_runs import (
    FRAMES,
    LION,
    SCATTERFORMER,
    SMALL,
    column,
    command,
    differing,
    last,
    one_thread,
    rows,
    small,
    start,
    words,
)

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures(one_thread.__name__, small.__name__)


# which trainer


@pytest.mark.parametrize(
    ("line", "lidar"),
    [
        ("lion_retnet_kitti", True),
        ("--device cpu lion_retnet_kitti", True),
        ("--no-validation lion_retnet_kitti", True),
        ("-c scatterformer_waymo", True),
        ("--config scatterformer_waymo", True),
        ("--config=scatterformer_waymo", True),
        ("-cscatterformer_waymo", True),
        ("--detector lion_mamba_small", True),
        ("--detector=lion_mamba_small", True),
        ("{lidar}", True),
        ("-c {lidar}", True),
        ("{run}", True),
        ("{vision}", False),
        ("-c {vision}", False),
        ("nowhere.toml", False),
        ("ravlt_tiny", False),
        ("--model ravlt_tiny --dataset digits", False),
        ("--model ravlt_tiny --experiment lion_retnet_kitti", False),
        ("--model ravlt_tiny --output {lidar}", False),
        ("--help", False),
        ("", False),
    ],
)
def test_a_lidar_recipe_or_detector_picks_the_lidar_trainer(tmp_path, line, lidar):
    places = {name: tmp_path / name for name in ("lidar.toml", "run.yaml", "vision.toml")}
    places["lidar.toml"].write_text("[model]\ndetector = 'lion_retnet_small'\n")
    places["run.yaml"].write_text("detector: lion_retnet_small\n")
    places["vision.toml"].write_text("model = 'ravlt_tiny'  # no detector\n")
    given = words(line.format(**{name.partition(".")[0]: path for name, path in places.items()}))
    for module, theirs in ((train, train_lidar), (validate, validate_lidar)):
        name = module.__name__.rpartition(".")[2]
        assert module.module_for([name, *given]) is (theirs if lidar else module)


def test_flags_win_over_the_recipe_wherever_they_stand(tmp_path):
    (tmp_path / "mine.toml").write_text(
        "[model]\ndetector = 'scatterformer_small'\nbackbone_kwargs = { layers = 1 }\n"
        "[augmentation]\nflip = ['x']\npaste = { Car = 3 }\n[optimizer]\nlr = 1e-3\nepochs = 7\n"
    )
    args = train_lidar.parse(["--lr", "0.5", str(tmp_path / "mine.toml"), "--paste", "Cyclist=2"])
    assert (args.lr, args.epochs, args.flip, args.paste) == (0.5, 7, ["x"], {"Cyclist": 2})
    assert args.backbone_kwargs == {"layers": 1}


# a run


def test_a_recipe_trains_validates_and_leaves_a_folder_to_go_on_from(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(
        "[model]\ndetector = 'scatterformer_tiny'\n"
        "[data]\ndataset = 'synthetic'\nscenes = 4\nval_scenes = 2\nbatch_size = 2\n"
        "[augmentation]\nflip = ['x', 'y']\nrotate = 45.0\nscale = [0.95, 1.05]\ntranslate = 0.1\n"
        "paste = { Car = 6, Cyclist = 4 }\n[optimizer]\nepochs = 1\n[run]\nlog_interval = 1\n"
    )
    assert command(tmp_path, str(tmp_path / "mine.toml"), "--device", "cpu") == 0
    folder = tmp_path / "run"
    assert capsys.readouterr().out.strip() == f"linzoo train: {folder}"
    assert sorted(f.name for f in folder.iterdir()) == [
        "args.yaml", "last.pth.tar", "metrics.json", "steps.csv",
    ]  # fmt: skip
    assert list(rows(folder)[0]) == ["step", "loss", "grad_norm", "heatmap", "box", "iou", "lr"]
    found = rows(folder)
    for row in found:
        parts = sum(float(row[name]) for name in ("heatmap", "box", "iou"))
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert metrics["step"] == 2 and 0 <= metrics["score"] <= 1
    assert last(folder)["detector"] == "scatterformer_tiny"
    loaded = create_detector("scatterformer_tiny", checkpoint=folder / "last.pth.tar")
    assert not differing(loaded.state_dict(), last(folder)["state_dict"])


def test_a_run_takes_up_its_own_args_file(tmp_path, capsys):
    assert command(tmp_path, *SMALL, "--max-steps", "1") == 0
    again = ["-c", str(tmp_path / "run" / "args.yaml"), "--max-steps", "2", "--resume", "auto"]
    assert command(tmp_path, *again) == 0
    assert [row["step"] for row in rows(tmp_path / "run")] == ["1", "2"]


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, capsys):
    line = [*SMALL, *words("--paste Car=6 --rotate 45 --clip-grad 5 --grad-accum-steps 2 --scenes 6")]
    whole = start(tmp_path, *line, name="whole")
    start(tmp_path, *line, "--max-steps", "1", name="parts")
    parts = start(tmp_path, *line, "--resume", "auto", name="parts")
    assert (parts.folder / "steps.csv").read_text() == (whole.folder / "steps.csv").read_text()
    assert not differing(last(whole.folder)["state_dict"], last(parts.folder)["state_dict"])
    capsys.readouterr()
    again = start(tmp_path, *line, "--resume", str(parts.folder), name="other")
    assert again.folder == parts.folder and again.history == []
    assert f"Nothing to do: {parts.folder} has made its 3 updates" in capsys.readouterr().err
    assert not (parts.folder / "metrics.json").exists()


def test_a_run_whose_last_validation_is_missing_makes_it_up(tmp_path):
    line = [*SCATTERFORMER, *FRAMES, *words("--epochs 1 --max-steps 1")]
    start(tmp_path, *line, "--no-validation")
    run = start(tmp_path, *line, "--resume", "auto")
    first = (run.folder / "metrics.json").read_text()
    assert run.history == [] and json.loads(first)["step"] == 1
    again = start(tmp_path, *line, "--resume", "auto")
    assert again.metrics == {} and (run.folder / "metrics.json").read_text() == first


def test_validations_come_after_epochs_and_change_nothing(tmp_path):
    line = [*SMALL, *words("--epochs 3 --scenes 1 --val-scenes 1")]
    without = start(tmp_path, *line, name="without")
    steps = []

    def note(run):
        steps.append(run.step)
        return original(run)

    from linzoo.tools.lidar import loop

    original, loop.validate = loop.validate, note
    try:
        between = start(tmp_path, *line, "--val-interval", "1", name="between")
    finally:
        loop.validate = original
    assert steps == [1, 2] and between.metrics
    assert (without.folder / "steps.csv").read_text() == (between.folder / "steps.csv").read_text()


def test_half_precision_is_near_full_precision(tmp_path):
    one, two = (
        start(tmp_path, *SMALL, "--max-steps", "1", "--mixed-precision", kind, name=kind)
        for kind in ("no", "bf16")
    )
    assert column(one.folder, "loss") != column(two.folder, "loss")
    assert column(two.folder, "loss") == pytest.approx(column(one.folder, "loss"), rel=0.05)


def test_scalars_reach_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = start(tmp_path, *SMALL, "--max-steps", "1", "--report-to", "tensorboard")
    found = events.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(column(run.folder, "loss"))
    assert {"train/heatmap", "train/box", "train/iou", "train/lr"} <= set(found.Tags()["scalars"])


KITTI = {"train": ["000000", "000001"], "val": ["000000"]}


def test_a_kitti_folder_trains_pastes_and_is_scored(tmp_path):
    write_kitti(tmp_path / "kitti", scenes(2), splits=KITTI)
    place = ["--dataset", "kitti", "--data-dir", str(tmp_path / "kitti")]
    line = [*SCATTERFORMER, *words("-b 1 --device cpu --epochs 1 --log-interval 1 --paste Car=5 --flip x")]
    run = start(tmp_path, *line, *place)
    assert [row["step"] for row in run.history] == [1, 2] and "Car_3d_moderate" in run.metrics


# schedule and optimiser


def published(step, total, lr, pct, div):
    """Rate and first beta of update ``step`` by the recipe of the authors' papers, in words of our own."""
    top, end = pct * total - 1, total - 1
    part, start, stop = (step / top, 0, 1) if step <= top else ((step - top) / (end - top), 1, 2)
    bend = (1 - math.cos(math.pi * part)) / 2
    rates, betas = (lr / div, lr, lr / div * 1e-4), (0.95, 0.85, 0.95)
    return tuple(values[start] + (values[stop] - values[start]) * bend for values in (rates, betas))


@pytest.mark.parametrize(("pct", "div"), [(0.4, 10.0), (0.1, 100.0)])
def test_rate_and_momentum_follow_one_cycle(pct, div):
    args = train_lidar.parse(["--lr", "0.003", "--pct-start", str(pct), "--div-factor", str(div)])
    optimizer = optim.make_optimizer(args, [torch.nn.Parameter(torch.ones(1))])
    schedule = optim.make_schedule(args, optimizer, 50)
    seen = []
    for _ in range(50):
        group = optimizer.param_groups[0]
        seen += [group["lr"], group["betas"][0]]
        assert group["betas"][1] == 0.99
        optimizer.step()
        if len(seen) < 100:
            schedule.step()
    expected = [v for step in range(50) for v in published(step, 50, 0.003, pct, div)]
    assert seen == pytest.approx(expected, rel=1e-6)
    top = round(pct * 50) - 1
    assert seen[0::2][0] == pytest.approx(0.003 / div) and max(seen[0::2]) == seen[0::2][top] == 0.003
    assert seen[-2] == pytest.approx(0.003 / div * 1e-4)
    assert (seen[1], seen[1::2][top], seen[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize(("pct", "updates"), [(0.5, 2), (0.25, 4), (0.4, 1), (0.9, 2)])
def test_a_cycle_of_few_updates_has_finite_rates(pct, updates):
    args = train_lidar.parse(["--lr", "0.003", "--pct-start", str(pct)])
    optimizer = optim.make_optimizer(args, [torch.nn.Parameter(torch.ones(1))])
    schedule = optim.make_schedule(args, optimizer, updates)
    for update in range(updates):
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.003
        optimizer.step()
        if update < updates - 1:
            schedule.step()


def test_each_update_is_made_and_logged_at_its_own_rate(tmp_path):
    line = [*SMALL, *words("--epochs 5 --scenes 1 --lr 0.01 --pct-start 0.4 --div-factor 10")]
    run = start(tmp_path, *line)
    assert column(run.folder, "lr") == pytest.approx([published(s, 5, 0.01, 0.4, 10.0)[0] for s in range(5)])


def test_decay_is_decoupled_and_on_norms_too(tmp_path):
    args = train_lidar.parse(["--lr", "0.5", "--weight-decay", "0.1"])
    norm = torch.nn.LayerNorm(3)
    optimizer = optim.make_optimizer(args, norm.parameters())
    for parameter in norm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(norm.weight.detach(), torch.full((3,), 1 - 0.5 * 0.1))


OWNED_WITH_CHILDREN = {  # parameters of modules that have children, which the authors' optimisers pass over
    "lion_mamba_small": ("A_log", "D", "A_b_log", "D_b"),
    "lion_rwkv_small": ("time_maa_x", "time_decay", "time_faaaa"),
    "lion_ttt_small": ("W1", "b1"),
    "lion_retnet_small": (),
    "lion_mlstm_small": (),
    "lion_linear_small": (),
    "lion_gated_small": (),
    "scatterformer_waymo": ("in_proj_weight", "in_proj_bias"),
    "scatterformer_nuscenes": ("in_proj_weight", "in_proj_bias"),  # of the pillars and of TransFusion
    "lion_retnet_nuscenes": ("in_proj_weight", "in_proj_bias"),
}


@pytest.mark.parametrize("name", OWNED_WITH_CHILDREN)
def test_every_parameter_reaches_the_optimiser(name):
    with torch.device("meta"):
        detector = create_detector(name)
    optimizer = optim.make_optimizer(train_lidar.parse([]), detector.parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for _, p in detector.named_parameters(remove_duplicate=False)}
    parents = [module for module in detector.modules() if next(module.children(), None) is not None]
    theirs = {n for module in parents for n, _ in module.named_parameters(recurse=False)}
    assert set(OWNED_WITH_CHILDREN[name]) <= theirs, theirs
    assert all(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize("line", [SCATTERFORMER, LION], ids=["scatterformer", "lion"])
def test_a_run_moves_every_parameter(tmp_path, line):
    run = start(tmp_path, *line, *FRAMES, *words("--epochs 1 --scenes 1 --no-validation --weight-decay 0.01"))
    torch.manual_seed(0)
    saved = last(run.folder)
    assert len(saved["optimizer"]["state"]) == len(list(run.model.parameters()))
    for slot in saved["optimizer"]["state"].values():
        assert slot["step"] == 1 and slot["exp_avg"].isfinite().all()


# frames


def frames_of(*line):
    args = train_lidar.parse([*SMALL, *line])
    frames = open_frames(args, train=True)
    return TrainingFrames(
        frames=frames,
        options=augment_options(args),
        paste=open_paste(args, frames),
        seed=args.seed,
        last_paste=args.epochs - args.no_paste_epochs,
        last_augmented=args.epochs - args.no_aug_epochs,
    )


ALL = words("--flip x y --rotate 45 --scale 0.9 1.1 --translate 0.5 --paste Car=9 Pedestrian=6")


def test_augmentation_follows_from_seed_epoch_and_place_alone():
    frames, again = frames_of(*ALL, "--epochs", "9"), frames_of(*ALL, "--epochs", "9")
    one = frames[Item(2, 3, 1)]
    frames[Item(0, 0, 0)]
    for other in (frames[Item(2, 3, 1)], again[Item(2, 3, 1)]):
        assert torch.equal(one.points, other.points) and torch.equal(one.labels.boxes, other.labels.boxes)
    for different in (frames[Item(2, 2, 1)], frames[Item(3, 3, 1)]):
        assert not torch.equal(one.points[:9], different.points[:9])
    seeded = frames_of(*ALL, "--epochs", "9", "--seed", "1")[Item(2, 3, 1)]
    assert not torch.equal(one.points[:9], seeded.points[:9])


def test_reading_processes_change_nothing():
    frames, plan = frames_of(*ALL), Plan(4, 2, 0)
    batches = UpdateBatches(plan, 0, 2, 0, 1, 2)
    loaders = [
        torch.utils.data.DataLoader(frames, batch_sampler=batches, collate_fn=collate, num_workers=n)
        for n in (0, 2)
    ]
    for one, other in zip(*loaders, strict=True):
        for a, b in zip(one.points, other.points, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(one.labels, other.labels, strict=True):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.classes, b.classes)


def test_a_run_with_reading_processes_is_the_same_run(tmp_path):
    line = [*SMALL, "--paste", "Car=5", "--max-steps", "2"]
    one, two = (start(tmp_path, *line, "--workers", n, name=n) for n in ("0", "1"))
    assert (one.folder / "steps.csv").read_text() == (two.folder / "steps.csv").read_text()


def test_the_last_epochs_paste_nothing_or_change_nothing():
    plain = frames_of().frames[1]
    frames = frames_of("--paste", "Car=40", "--epochs", "3", "--no-paste-epochs", "1")
    assert len(frames[Item(1, 0, 1)].labels.boxes) > len(plain.labels.boxes)
    assert len(frames[Item(2, 0, 1)].labels.boxes) == len(plain.labels.boxes)
    frames = frames_of(*ALL, "--epochs", "3", "--no-aug-epochs", "1")
    assert not torch.equal(frames[Item(1, 0, 1)].labels.boxes[:1], plain.labels.boxes[:1])
    last = frames[Item(2, 0, 1)]
    assert torch.equal(last.points, plain.points) and torch.equal(last.labels.boxes, plain.labels.boxes)


class Counted:
    classes = ("a", "b")

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return index

    def labelled_classes(self, index):
        return {0} if index < 18 else {0, 1}


def test_class_balanced_frames_hold_each_class_about_as_often():
    frames = ClassBalanced(Counted(), seed=3)
    drawn = [frames[i] for i in range(len(frames))]
    rare = sum(index >= 18 for index in drawn)
    assert len(frames) == 2 * (22 // 2) and rare >= 11
    assert [ClassBalanced(Counted(), seed=3)[i] for i in range(len(frames))] == drawn
    assert [ClassBalanced(Counted(), seed=4)[i] for i in range(len(frames))] != drawn


def test_class_balanced_scenes_train(tmp_path):
    run = start(tmp_path, *SMALL, "--class-balanced", "--max-steps", "1")
    assert len(run.frames) > 4 and run.updates == len(run.frames)


# fine-tuning


@pytest.mark.parametrize("form", ["ours", "official"])
def test_a_run_starts_from_weights(tmp_path, form):
    torch.manual_seed(5)
    source = create_detector("scatterformer_tiny")
    path = tmp_path / f"{form}.pth"
    torch.save({"state_dict": source.state_dict()} if form == "ours" else to_official(source), path)
    line = [*SMALL, "--initial-checkpoint", str(path), "--lr", "0"]
    run = start(tmp_path, *line, "--max-steps", "1")
    own = dict(run.model.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in source.named_parameters())
    assert start(tmp_path, *SMALL, "--max-steps", "1", name="other").history != run.history
    path.unlink()  # a run that goes on needs it no more
    run = start(tmp_path, *line, "--max-steps", "2", "--resume", "auto")
    assert [row["step"] for row in run.history] == [2]


def test_options_of_augmentation_are_those_of_the_flags():
    args = train_lidar.parse(words("--flip y --rotate 90 --scale 0.9 1.1 --translate 0.2 --paste Car=3"))
    options = augment_options(args)
    assert (options.flip_x, options.flip_y, options.rotation) == (False, True, pytest.approx(math.pi / 2))
    assert (options.scale, options.translation, options.paste) == ((0.9, 1.1), 0.2, {"Car": 3})
    assert augment_options(argparse.Namespace(**vars(train_lidar.parse([])))).paste == {}
