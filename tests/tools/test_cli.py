"""The ``linzoo`` command: light start, clear refusals, and what each command prints."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image

import linzoo.vision
from linzoo import __version__
from linzoo.cli import COMMANDS, main
from linzoo.tools.extras import need

NO_TORCH = "import sys; sys.modules['torch'] = None; from linzoo.cli import main; sys.exit(main({argv!r}))"


def run_without_torch(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", NO_TORCH.format(argv=list(argv))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def refused(capsys, *argv: str) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model's weights under both names, and a picture."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = timm.create_model("nalaformer_xt", num_classes=10).eval()
    torch.save({"model": model.state_dict(), "model_ema": model.state_dict()}, folder / "ours.pth")
    Image.new("RGB", (80, 60), (200, 120, 40)).save(folder / "picture.png")
    assert main(convert(folder / "ours.pth", folder / "official.pth", "official")) == 0
    return folder


def convert(source, target, to, *more):
    return ["convert", str(source), str(target), "-m", "nalaformer_xt", "--to", to, *more]


# starting


@pytest.mark.parametrize("argv", [("--help",), *((name, "--help") for name in COMMANDS)], ids=" ".join)
def test_help_needs_no_torch(argv):
    out = run_without_torch(*argv)
    assert out.returncode == 0, out.stderr
    assert "usage: linzoo" in out.stdout


def test_version_needs_no_torch():
    out = run_without_torch("--version")
    assert (out.returncode, out.stdout) == (0, f"linzoo {__version__}\n")


def test_help_names_every_command():
    out = run_without_torch("--help").stdout
    assert all(name in out for name in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert "did you mean 'predict'?" in refused(capsys, "predikt", "x.png")


def test_a_fault_of_ours_shows_its_traceback(monkeypatch):
    from linzoo.tools import list_models

    def broken(args):
        raise AssertionError("ours")

    monkeypatch.setattr(list_models, "run", broken)
    with pytest.raises(AssertionError, match="ours"):
        main(["list"])


def test_debug_shows_the_traceback_of_a_refused_request():
    with pytest.raises(ValueError, match="did you mean"):
        main(["info", "ravlt_tiney", "--debug"])


def test_a_missing_extra_names_the_pip_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "skimage", None)
    line = refused(capsys, "demo", "--output", str(tmp_path / "demo"))
    assert 'skimage is not installed: pip install "linzoo[data]"' in line
    assert not (tmp_path / "demo").exists()


def test_a_module_that_fails_inside_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "brokenmod.py").write_text("import module_that_is_nowhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="module_that_is_nowhere"):
        need("brokenmod", "data")


# list and info


def test_list_shows_every_registered_model_once(capsys):
    assert main(["list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    registered = [name for family in linzoo.vision.FAMILIES for name in timm.list_models(module=family)]
    assert sorted(names) == sorted(registered) and len(names) == len(set(names)) >= 17


def test_list_filters_by_timms_wildcards(capsys):
    assert main(["list", "*alaformer_[xt]*", "--json"]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)] == ["nalaformer_xt", "nalaformer_tiny"]


def test_list_pretrained_promises_no_weights_without_an_address(capsys):
    assert main(["list", "--pretrained", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    promised = {row["family"] for row in rows}
    assert {"ravlt", "l2vit"} <= promised and not promised & {"mala", "nalaformer"}


def test_list_families_has_one_line_a_family(capsys):
    assert main(["list", "--families"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(linzoo.vision.FAMILIES)


def test_list_detectors_shows_those_of_lidar_frames(capsys):
    assert main(["list", "*_kitti", "--detectors", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= {"lion_retnet_kitti", "lion_ttt_kitti"} and len(rows) == 5
    assert all(row["classes"] == ["Car", "Pedestrian", "Cyclist"] for row in rows)
    assert main(["list", "scatterformer_waymo", "--detectors"]) == 0
    assert "scatterformer_waymo          12.3 M  Vehicle, Pedestrian, Cyclist" in capsys.readouterr().out
    assert "no detector matches 'lio'" in refused(capsys, "list", "lio", "--detectors")
    assert "--families does not go with --detectors" in refused(capsys, "list", "--detectors", "--families")


def test_list_of_a_pattern_without_models_names_those_there_are(capsys):
    assert "ravlt_tiny" in refused(capsys, "list", "resnet*")


@pytest.mark.parametrize(("name", "parameters", "gmacs"), [
    ("ravlt_tiny", 14_897_768, 2.63),
    ("nalaformer_tiny", 15_907_752, 2.88),
    ("l2vit_tiny", 28_596_781, 4.71),
])  # fmt: skip
def test_info_counts_as_the_papers_code_does(capsys, name, parameters, gmacs):
    """The figures are of the authors' code at 224, fvcore's, which counts norms too: up to 2 % more."""
    assert main(["info", name, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == parameters
    assert 0.98 * gmacs < facts["macs"] / 1e9 <= gmacs


def test_info_counts_the_linear_attention_itself(capsys):
    """All-linear attention at 448 costs four times that at 224, and its products are part of the count."""
    from linzoo.tools.models import state_flops

    assert state_flops((1, 100, 2, 8), (1, 100, 2, 4)) == 2 * 100 * 2 * 8 * 4
    counts = []
    for size in ("224", "448"):
        assert main(["info", "l2vit_tiny", "--img-size", size, "--json"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["macs"])
    assert counts[1] == pytest.approx(4 * counts[0], rel=1e-3)


def test_info_prints_card_weights_licence_paper_and_published_figure(capsys):
    assert main(["info", "ravlt_small"]) == 0
    text = capsys.readouterr().out
    for words in ("aldjalkdf/RAVLT", "RAVLT_S.pth", "mit", "2411.07635", "84.4", "25.59 M"):
        assert words in text


@pytest.mark.parametrize("command", [("info",), ("predict", "PICTURE", "-m")], ids="-".join)
def test_an_unknown_model_names_the_nearest(capsys, files, command):
    argv = [str(files / "picture.png") if word == "PICTURE" else word for word in command]
    assert "did you mean ravlt_tiny" in refused(capsys, *argv, "ravlt_tiney")


def test_a_lidar_detector_is_told_from_a_model(capsys):
    assert "lion_retnet_kitti is a LiDAR detector" in refused(capsys, "info", "lion_retnet_kitti")


@pytest.mark.parametrize("command", ["train", "distill"])
def test_an_unknown_flag_is_named_not_the_word_behind_it(capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main([command, "--nonsense", "3"])
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_an_unknown_tag_names_those_there_are(capsys):
    assert "has l2vit_tiny.in1k" in refused(capsys, "info", "l2vit_tiny.in22k")


def test_a_tag_chooses_the_published_classes(capsys):
    assert main(["info", "l2vit_base.in22k", "--json"]) == 0
    tagged = json.loads(capsys.readouterr().out)["parameters"]
    assert tagged - 88_577_188 == (21841 - 1000) * 1025


def test_an_image_size_too_small_is_refused(capsys):
    assert "--img-size must be at least 32" in refused(capsys, "info", "ravlt_tiny", "--img-size", "8")


# predict


def predict(files, *more):
    return ["predict", str(files / "picture.png"), "-m", "nalaformer_xt", "--img-size", "64", *more]


def test_predict_agrees_with_timm(capsys, files):
    assert main(predict(files, "--checkpoint", str(files / "ours.pth"), "--output-type", "json")) == 0
    top = json.loads(capsys.readouterr().out)[0]["top"]
    model = timm.create_model("nalaformer_xt", num_classes=10).eval()
    model.load_state_dict(torch.load(files / "ours.pth", weights_only=True)["model"])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model, {"img_size": 64}))
    image = transform(Image.open(files / "picture.png").convert("RGB"))[None]
    with torch.inference_mode():
        values, indices = model(image).softmax(-1)[0].topk(5)
    assert [t["index"] for t in top] == indices.tolist()
    assert [t["probability"] for t in top] == pytest.approx(values.tolist(), rel=1e-5)


def test_predict_reads_the_authors_file_and_ours_alike(capsys, files):
    answers = []
    for name in ("ours.pth", "official.pth"):
        assert main(predict(files, "--checkpoint", str(files / name), "--output-type", "csv")) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == 6


def test_predict_without_weights_is_refused(capsys, files):
    line = refused(capsys, *predict(files))
    assert "needs weights" in line and "--checkpoint" in line and "--random-weights" in line


def test_predict_says_that_random_weights_mean_nothing(capsys, files):
    assert main(predict(files, "--random-weights", "--topk", "2")) == 0
    captured = capsys.readouterr()
    assert "mean nothing" in captured.err
    assert len(captured.out.splitlines()) == 3


@pytest.mark.parametrize("content", ["\n".join(f"name {i}" for i in range(10)), None], ids=["txt", "json"])
def test_predict_names_classes_from_a_class_map(capsys, files, tmp_path, content):
    path = tmp_path / ("map.json" if content is None else "map.txt")
    path.write_text(json.dumps({f"name {i}": i for i in range(10)}) if content is None else content)
    argv = predict(
        files, "--checkpoint", str(files / "ours.pth"), "--class-map", str(path), "--output-type", "json"
    )
    assert main(argv) == 0
    assert all(t["label"] == f"name {t['index']}" for t in json.loads(capsys.readouterr().out)[0]["top"])


@pytest.mark.parametrize(("change", "words"), [
    (("--topk", "0"), "--topk must be at least 1"),
    (("--num-classes", "7"), "--num-classes must be 10"),
    (("--num-classes", "0"), "--num-classes must be at least 1, got 0"),
    (("--img-size", "0"), "--img-size must be at least 1, got 0"),
    (("--class-map", "nowhere.txt"), "--class-map must be a file"),
    (("-m", "ravlt_tiny"), "must hold every tensor of the model"),
    (("--device", "toaster"), "--device must be a device of this machine"),
    (("--device", "mps"), "--device must be a device of this machine"),
], ids=lambda value: value[0] if isinstance(value, tuple) else "")  # fmt: skip
def test_predict_refuses_in_one_line(capsys, files, change, words):
    assert words in refused(capsys, *predict(files, "--checkpoint", str(files / "ours.pth"), *change)).lower()


def test_pretrained_without_published_weights_is_refused(capsys, files):
    assert "no published weights are known for nalaformer_xt" in refused(
        capsys, *predict(files, "--pretrained")
    )


def test_predict_names_a_truncated_picture(capsys, files, tmp_path):
    whole = (files / "picture.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    argv = ("-m", "nalaformer_xt", "--checkpoint", str(files / "ours.pth"))
    assert f"cannot read {tmp_path / 'half.png'}: " in refused(
        capsys, "predict", str(tmp_path / "half.png"), *argv
    )


def test_predict_refuses_a_file_that_is_no_picture(capsys, files, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    argv = ["-m", "nalaformer_xt", "--checkpoint", str(files / "ours.pth")]
    assert "text.png is not a picture" in refused(capsys, "predict", str(tmp_path / "text.png"), *argv)


def test_predict_refuses_a_picture_that_is_not_there(capsys):
    assert "nowhere.png is not there" in refused(capsys, "predict", "nowhere.png", "-m", "ravlt_tiny")


# convert


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_and_back_gives_the_same_bits(files, tmp_path, suffix):
    official, back = tmp_path / f"official{suffix}", tmp_path / f"back{suffix}"
    assert main(convert(files / "ours.pth", official, "official")) == 0
    assert main(convert(official, back, "linzoo")) == 0
    from linzoo.vision.weights import load_official

    names, ours = load_official(official), load_official(files / "ours.pth")
    assert "patch_embed.proj.0.weight" in names and names["head.weight"].ndim == 4
    again = load_official(back)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[key], ours[key]) for key in ours)
    assert not [file.name for file in tmp_path.iterdir() if ".tmp" in file.name]


def test_convert_keeps_what_is_there_unless_forced(capsys, files, tmp_path):
    target = tmp_path / "there.pth"
    target.write_bytes(b"precious")
    assert "--force replaces it" in refused(capsys, *convert(files / "ours.pth", target, "official"))
    assert target.read_bytes() == b"precious"
    assert main(convert(files / "ours.pth", target, "official", "--force")) == 0
    assert target.read_bytes() != b"precious"


def test_a_failed_convert_leaves_nothing_behind(capsys, files, tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes((files / "ours.pth").read_bytes()[:5000])
    target = tmp_path / "there.pth"
    target.write_bytes(b"precious")
    refused(capsys, *convert(broken, target, "official", "--force"))
    refused(capsys, *convert(files / "ours.pth", tmp_path / "no" / "such.pth", "official"))
    assert "must end in" in refused(capsys, *convert(files / "ours.pth", tmp_path / "x.npz", "official"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.pth", "there.pth"]
    assert target.read_bytes() == b"precious"


def test_what_reads_back_differently_is_not_kept(files, tmp_path, monkeypatch):
    from linzoo.vision import weights

    real = weights.load_official

    def bent(path):
        loaded = real(path)
        if ".tmp" in str(path):
            loaded["head.bias"] = loaded["head.bias"] + 1
        return loaded

    monkeypatch.setattr(weights, "load_official", bent)
    with pytest.raises(RuntimeError, match="reads back differently"):
        main(convert(files / "ours.pth", tmp_path / "x.pth", "official"))
    assert list(tmp_path.iterdir()) == []
