"""The LiDAR recipes say what the authors published; each trains a tiny stand-in of its detector."""

import functools
from dataclasses import replace
from importlib import resources

import pytest
import torch

from linzoo.pointcloud import create_detector, detector_config, detectors
from linzoo.pointcloud.data.synthetic import SyntheticScenes
from linzoo.pointcloud.records import Frame, Labels
from linzoo.tools.recipe import recipe_names
from linzoo.tools.train_lidar import parse

from ..tools.lidar_runs import one_thread, tiny, use_small_things
from . import recipe_header
from .published_pointcloud import ROWS

FOLDER = resources.files("linzoo.configs").joinpath("pointcloud")
header, line = (functools.partial(read, "pointcloud") for read in (recipe_header.header, recipe_header.line))
every_recipe = pytest.mark.parametrize("name", ROWS)
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
SAMPLE = (
    "lion_mamba_waymo_large", "lion_rwkv_nuscenes", "lion_retnet_once", "lion_ttt_kitti", "lion_mlstm_kitti",
    "scatterformer_nuscenes", "scatterformer_waymo",
)  # fmt: skip


def test_every_recipe_has_a_row():
    assert {name for name in recipe_names("pointcloud") if not name.startswith("street")} == set(ROWS)


@every_recipe
def test_the_recipe_amounts_to_what_the_authors_set(name):
    row, settings = ROWS[name], parse([name])
    assert settings.detector == name and settings.backbone_kwargs == {}
    assert (settings.dataset, settings.sweeps, settings.class_balanced) == (
        row.dataset, row.sweeps, row.balanced,
    )  # fmt: skip
    assert (settings.epochs, settings.lr, settings.weight_decay) == (row.epochs, row.lr, row.decay)
    assert ((settings.pct_start, settings.div_factor), settings.clip_grad) == (row.cycle, row.clip)
    assert (settings.batch_size, settings.grad_accum_steps) == (row.batch, 1)
    assert (settings.no_paste_epochs, settings.no_aug_epochs) == row.late
    assert (tuple(settings.flip), settings.rotate) == (row.flip, 45.0)
    assert (tuple(settings.scale), settings.translate) == (row.scale, row.translate)
    assert settings.paste == row.paste and settings.mixed_precision == "no"
    assert set(row.paste) == set(detector_config(name).classes)


@every_recipe
def test_the_header_tells_command_source_and_that_nothing_was_run(name):
    row = ROWS[name]
    start = f"accelerate launch --num_processes 8 -m linzoo train {name} "
    more = "--data-dir DIR" if row.dataset else "--dataset NAME --data-dir DIR"
    assert line(name, "run") == start + more
    assert line(name, "cost") == line(name, "result") == "not run"
    assert line(name, f"published ({row.source})") == row.figure
    assert any("counts of pasted objects are our choice" in text for text in header(name))


@every_recipe
def test_the_recipe_names_a_detector_that_can_be_built(name):
    with torch.device("meta"):
        detector = create_detector(parse([name]).detector)
    assert detector.config.classes == detector_config(name).classes


class Scenes:
    """Synthetic scenes with the classes, point values and box values of another data set."""

    def __init__(self, config, box_values):
        self.scenes, self.box_values = SyntheticScenes(length=2), box_values
        self.classes, self.point_features = config.classes, config.point_features
        self.numbers = torch.tensor([0, len(self.classes) - 2, len(self.classes) - 1])

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        frame = self.scenes[index]
        points = torch.nn.functional.pad(frame.points, (0, self.point_features - 4))
        boxes = torch.nn.functional.pad(frame.labels.boxes, (0, self.box_values - 7))
        return Frame(points=points, labels=Labels(boxes, self.numbers[frame.labels.classes]), name=frame.name)

    def labelled_classes(self, index):
        return set(self[index].labels.classes.tolist())


def stand_in(name):
    """The detector's head behind a tiny backbone with its operator, and a small neck."""
    config, made = detector_config(name), tiny()
    if name.startswith("scatterformer"):
        small_one = made["scatterformer_tiny"]
        backbone = small_one.backbone
    else:
        small_one = made["lion_retnet_tiny"]
        words = dict(config.backbone.operator_words)
        backbone = replace(small_one.backbone, operator=config.backbone.operator, operator_words=words)
    return replace(
        small_one, backbone=backbone, classes=config.classes, point_features=config.point_features,
        tanh=config.tanh, head=config.head,
    )  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE)
def test_the_recipe_trains_a_tiny_stand_in_of_its_detector(name, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    from linzoo.tools.lidar import session

    row, config = ROWS[name], stand_in(name)
    use_small_things(monkeypatch.setattr)
    monkeypatch.setattr(detectors, "DETECTORS", {**detectors.DETECTORS, name: config})
    frames = Scenes(config, 9 if row.dataset == "nuscenes" else 7)
    monkeypatch.setattr(session, "open_frames", lambda args, train: frames)
    words = [name, "--data-dir", "x", "--device", "cpu", "-b", "1", "--max-steps", "1", "--no-validation"]
    words += ["--log-interval", "1", "--output", str(tmp_path), "--experiment", "run"]
    words += [] if row.dataset else ["--dataset", "kitti"]
    run = session.train_detector(parse(words))
    (made,) = run.history
    assert 0 < made["loss"] < float("inf") and made["lr"] == pytest.approx(row.lr / row.cycle[1])
    assert run.updates == row.epochs * len(run.frames)
    assert (run.frames.last_paste, run.frames.last_augmented) == tuple(row.epochs - n for n in row.late)
    assert dict(run.frames.options.paste) == row.paste and len(run.frames.paste) > 0


# the folder's page


def table():
    """The rows of README.md's table, from the recipes."""
    rows = ["| recipe | data | epochs | frames an update | rate | decay | clip | published | ours |"]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for name, row in ROWS.items():
        cells = [
            f"`{name}`", row.dataset or "yours", row.epochs, 8 * row.batch, row.lr, row.decay, row.clip,
            row.figure, "not run",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def test_the_page_lists_the_recipes():
    page = FOLDER.joinpath("README.md").read_text(encoding="utf-8")
    found = page.partition("<!-- recipes -->\n")[2].partition("\n<!-- /recipes -->")[0]
    assert found == table(), f"paste between the marks of configs/pointcloud/README.md:\n{table()}"
