"""What ``linzoo train`` of LiDAR detectors refuses, and how it ends when something goes wrong."""

import pytest
import torch

from linzoo.cli import main
from linzoo.pointcloud import create_detector

from ..pointcloud.lidar_folders import scenes, write_kitti
from .lidar_runs import SMALL, command, last, one_thread, refused, rows, small, words

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures(one_thread.__name__, small.__name__)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-c {empty}.toml", "--detector must be a detector's name (`linzoo list --detectors`), got none"),
        ("--detector lion_retnet_tiny", "--dataset must be synthetic, kitti, nuscenes or waymo, got none"),
        ("lion_retnet_kitti", "--data-dir must be the folder of the data set kitti, got none"),
        ("{ok} --data-dir x", "--data-dir: the synthetic scenes are drawn, not read, got x"),
        ("lion_retnet_once", "--dataset must be synthetic, kitti, nuscenes or waymo, got none"),
        ("lion_retnet_kitti --data-dir nowhere", "--data-dir must be the folder of the data set kitti, got"),
        ("lion_retnet_kitti --data-dir {folder}", "training"),
        ("{ok} -b 0", "--batch-size must be at least 1, got 0"),
        ("{ok} --scenes 0", "--scenes must be at least 1, got 0"),
        ("{ok} --epochs 0", "--epochs must be at least 1, got 0"),
        ("{ok} --max-steps 0", "--max-steps must be at least 1, got 0"),
        ("{ok} --prepared x", "--prepared: the synthetic scenes are drawn, not read, got x"),
        ("{ok} --sweeps 2", "--sweeps must go with the data set nuscenes, got synthetic and 2"),
        ("{ok} --data-version x", "--data-version must go with the data set nuscenes, got synthetic and x"),
        ("{ok} --sweeps 0", "--sweeps must be at least 1, got 0"),
        ("{ok} --save-interval 0", "--save-interval must be at least 1, got 0"),
        ("{ok} --workers -1", "--workers must be at least 0, got -1"),
        ("{ok} --seed -1", "--seed must be at least 0, got -1"),
        ("{ok} --lr nan", "--lr must be at least 0, got nan"),
        ("{ok} --lr inf", "--lr must be at least 0, got inf"),
        ("{ok} --weight-decay -1", "--weight-decay must be at least 0, got -1.0"),
        ("{ok} --clip-grad 0", "--clip-grad must be above 0, got 0.0"),
        ("{ok} --clip-grad nan", "--clip-grad must be above 0, got nan"),
        ("{ok} --rotate -1", "--rotate must be at least 0, got -1.0"),
        ("{ok} --translate inf", "--translate must be at least 0, got inf"),
        ("{ok} --scale 1.1 0.9", "--scale must be two factors above 0, rising, got 1.1 0.9"),
        ("{ok} --scale 0 1", "--scale must be two factors above 0, rising, got 0.0 1.0"),
        ("{ok} --pct-start 1", "--pct-start must lie between 0 and 1, got 1.0"),
        ("{ok} --div-factor 0.5", "--div-factor must be at least 1, got 0.5"),
        ("{ok} --no-aug-epochs 2", "--no-aug-epochs must be at most the 1 epochs, got 2"),
        ("{ok} --no-paste-epochs 2", "--no-paste-epochs must be at most the 1 epochs, got 2"),
        ("{ok} --paste Car=x", "--paste must be CLASS=COUNT with whole counts, got Car=x"),
        ("{ok} --paste Car=-1", "--paste must be CLASS=COUNT with whole counts, got Car=-1"),
        ("{ok} --paste Car=True", "--paste must be CLASS=COUNT with whole counts, got Car=True"),
        ("{ok} --paste Bus=3", "--paste must name classes of Car, Pedestrian, Cyclist, got Bus"),
        ("{ok} --train-split all", "--train-split must be one of train, val, test for synthetic scenes, got"),
        ("{ok} --val-interval 1 --val-split all", "--val-split must be one of train, val, test for"),
        ("{ok} --scenes 3 -b 4", "--batch-size must be so that an update has at most the 3 items"),
        ("{ok} --detector lion_retnet_kiti", "--detector: detector must be one of"),
        ("{ok} --detector scatterformer_waymo", "Vehicle, Pedestrian, Cyclist; --dataset synthetic has"),
        ("{ok} --backbone-kwargs layer=2", "scatterformer_tiny's backbone has no layer; it has grid, window"),
        ("{ok} --backbone-kwargs layers=x", "--backbone-kwargs layers must be of type int, as 1, got 'x'"),
        ("{ok} --backbone-kwargs layers=True", "layers must be of type int, as 1, got True"),
        ("{ok} --backbone-kwargs channels=64", "--backbone-kwargs channels belongs to the form of"),
        ("{ok} --backbone-kwargs window=7", "--backbone-kwargs window=7: "),
        ("{lion} --backbone-kwargs padding=zero", "--backbone-kwargs padding=zero: "),
        ("{lion} --backbone-kwargs operator=lstm", "--backbone-kwargs operator=lstm: "),
        ("{ok} --initial-checkpoint nowhere.pth", "checkpoint must be a file, got nowhere.pth"),
        ("{ok} --initial-checkpoint {file}", "{file}"),
        ("{ok} --initial-checkpoint {other}", "missing: "),
        ("{ok} --mixed-precision fp16", "--mixed-precision must be no or bf16 on the CPU, got fp16"),
        ("{ok} --resume {folder}", "must be the folder of a run with last.pth.tar, {folder} is none"),
        ("{ok} --output {file}", "--output must be a folder, {file} is a file"),
        ("-c nowhere.toml --detector x", "--config must be a file or a packaged recipe, nowhere.toml is not"),
        ("-c lion_retnet_kity --detector x", "got 'lion_retnet_kity'; did you mean lion_retnet_kitti?"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(tmp_path, capsys, line, message):
    places = {name: tmp_path / name for name in ("folder", "file", "other", "empty")}
    places["folder"].mkdir()
    places["file"].write_text("")
    places["empty"].with_suffix(".toml").write_text("lr = 1e-3\n[model]\ndetector = ''\n")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, places["other"])
    ok = " ".join(SMALL)
    lion = ok.replace("scatterformer_tiny", "lion_retnet_tiny")
    given = words(line.format(ok=ok, lion=lion, **places))
    output = [] if "--output" in given else ["--output", str(tmp_path / "runs")]
    before = sorted(tmp_path.iterdir())
    status = main(["train", *given, *output])
    refused(capsys, status, message.format(**places))
    assert status == 2 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector = 'x'\nlr = 'fast'", "mine.toml:2: lr must be a number, got 'fast'"),
        ("detector = 'x'\nlearning_rate = 1", "mine.toml:2: learning_rate must be the name of a flag"),
        ("detector = 'x'\nflip = ['z']", "mine.toml:2: flip must be one of x, y, got 'z'"),
        ("detector = 'x'\nscale = [1.0]", "mine.toml:2: scale must be a list of 2 values"),
        ("detector = 'x'\npaste = 3", "paste must be a table of names and values, got 3"),
        ("detector = 'x'\ndataset = 'once'", "dataset must be one of synthetic, kitti, nuscenes, waymo, got"),
        ("detector = 'x'\ndetector = 'y'", "mine.toml: a recipe must be TOML"),
    ],
)
def test_a_recipes_fault_is_named_with_its_line(tmp_path, capsys, text, message):
    (tmp_path / "mine.toml").write_text(text)
    refused(capsys, command(tmp_path, str(tmp_path / "mine.toml")), message)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused_and_another_run_cannot_go_on(tmp_path, capsys):
    assert command(tmp_path, *SMALL, "--max-steps", "1") == 0
    refused(capsys, command(tmp_path, *SMALL), "--experiment must be a new name", "--resume auto goes on")
    resume = [*SMALL, "--resume", "auto"]
    for more, told in (
        (["--lr", "0.5"], "lr 0.003 -> 0.5"),
        (["--seed", "1"], "seed 42 -> 1"),
        (["--scenes", "5"], "scenes 4 -> 5"),
        (["--paste", "Car=3"], "paste {} -> {'Car': 3}"),
        (["--flip", "x"], "flip [] -> ['x']"),
        (["-b", "2"], "frames an update 1 -> 2"),
        (["--mixed-precision", "bf16"], "mixed_precision no -> bf16"),
        (["--detector", "lion_retnet_tiny"], "detector scatterformer_tiny -> lion_retnet_tiny"),
    ):
        refused(capsys, command(tmp_path, *resume, *more), "this run is not that of", told)
    saved = last(tmp_path / "run")
    none = {"state_dict": saved["state_dict"]}
    for other in (none, saved | {"step": "1"}, saved | {"optimizer": {}}):
        torch.save(other, tmp_path / "run" / "last.pth.tar")
        refused(capsys, command(tmp_path, *resume), "must be a run of `linzoo train` of a LiDAR detector")
    less = {name: tensor for name, tensor in saved["state_dict"].items() if not name.startswith("vfe")}
    torch.save(saved | {"state_dict": less}, tmp_path / "run" / "last.pth.tar")
    refused(capsys, command(tmp_path, *resume), "--resume: ", "must hold the", "missing: vfe.pfn_layers.0")
    (tmp_path / "run" / "last.pth.tar").write_bytes(b"no")
    refused(capsys, command(tmp_path, *resume), "last.pth.tar cannot be read, damaged or no checkpoint")


@pytest.mark.skipif(
    "not __import__('os').access('/proc/self', 4)", reason="needs a folder nobody can write to"
)
def test_an_output_that_cannot_be_written_is_told_before_the_first_update(tmp_path, capsys):
    status = main(["train", *SMALL, "--output", "/proc/self"])
    refused(capsys, status, "--output must be a folder that can be written to, /proc/self")


def fail_at(monkeypatch, step, act):
    """Call ``act`` when the run writes down its step ``step``."""
    from linzoo.tools.runs.log import Log

    write = Log.row
    monkeypatch.setattr(
        Log, "row", lambda log, row: (write(log, row), act() if row["step"] == step else None)
    )


def test_a_loss_that_is_no_number_ends_the_run_and_nothing_of_it_is_saved(tmp_path, capsys):
    line = words("--lr 1e30 --div-factor 1 --save-interval 1 --clip-grad inf")
    status = command(tmp_path, *SMALL, *line)
    refused(capsys, status, "NaN or infinite")
    assert status == 1
    if (tmp_path / "run" / "last.pth.tar").exists():
        state = last(tmp_path / "run")
        assert all(v.isfinite().all() for v in state["state_dict"].values())
        assert state["step"] == len(rows(tmp_path / "run"))


def test_a_weight_that_is_no_number_is_named_and_not_saved(tmp_path, capsys, monkeypatch):
    from linzoo.tools.lidar import loop

    update = loop.update

    def spoil(run, batches):
        terms = update(run, batches)
        if run.step == 2:
            run.model.vfe.pfn_layers[0].linear.weight.data[0, 0] = float("nan")
        return terms

    monkeypatch.setattr(loop, "update", spoil)
    status = command(tmp_path, *SMALL, "--save-interval", "1")
    name = "vfe.pfn_layers.0.linear.weight"
    refused(capsys, status, f"weight {name} is NaN or infinite after step 2", "last.pth.tar (--resume")
    assert status == 1 and last(tmp_path / "run")["step"] == 1


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at(monkeypatch, 2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1])))
    try:
        status = command(tmp_path, *SMALL, "--max-steps", "3", "--save-interval", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(capsys, status, "cannot write", "File too large", "the last good checkpoint is")
    assert last(tmp_path / "run")["step"] == 1
    monkeypatch.undo()


def test_an_interrupted_run_says_where_it_goes_on(tmp_path, capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    fail_at(monkeypatch, 2, interrupt)
    assert command(tmp_path, *SMALL, "--save-interval", "1") == 130
    lines = capsys.readouterr().err
    assert f"Stopped; the last good checkpoint is {tmp_path / 'run' / 'last.pth.tar'}" in lines
    assert lines.strip().endswith("linzoo train: interrupted")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_is_cut_short_ends_the_run_by_its_name(tmp_path, capsys, workers):
    write_kitti(tmp_path / "kitti", scenes(2))
    broken = tmp_path / "kitti" / "training" / "velodyne" / "000001.bin"
    broken.write_bytes(broken.read_bytes()[:-3])
    line = [*SMALL, *words("--dataset kitti --save-interval 1"), "--data-dir", str(tmp_path / "kitti")]
    line = [word for word in line if word not in ("--scenes", "4", "--val-scenes", "2")]
    status = command(tmp_path, *line, "--workers", workers)
    refused(capsys, status, "frame 1 cannot be read: ", str(broken), "cut short", "checkpoint")


def test_the_weights_of_another_form_are_refused(tmp_path, capsys):
    other = create_detector("lion_retnet_tiny")
    torch.save({"state_dict": other.state_dict()}, tmp_path / "other.pth")
    status = command(tmp_path, *SMALL, "--initial-checkpoint", str(tmp_path / "other.pth"))
    wanted = ("--initial-checkpoint: ", "must hold the", "tensors of this Detector")
    refused(capsys, status, *wanted, "not its own: backbone_3d.linear_1")
    assert not (tmp_path / "run").exists()
