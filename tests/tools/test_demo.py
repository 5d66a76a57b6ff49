"""``linzoo demo``: a run that was killed goes on to the same figures; the page needs nothing but itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from linzoo.cli import main
from linzoo.tools.demo import PARTS

pytestmark = pytest.mark.slow

TIMED = {
    "seconds",
    "cpu_seconds",
    "process_seconds",
    "megabytes",
    "passes",
    "made",
    "extrapolated",
    "stopped",
}


KILLED = ["digits"]  # what parts measure is kept as what this one trains is


def command(output, *words):
    return [sys.executable, "-m", "linzoo", "demo", "--quick", "--output", str(output), *words]


def untimed(value):
    """The part of a result that does not depend on how busy the machine was."""
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if key not in TIMED}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def results(output):
    return untimed(json.loads((output / "results.json").read_text()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "demo"
    done = subprocess.run(command(output), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed after its first epoch, again when its first model was trained, then left to end."""
    output = tmp_path_factory.mktemp("killed") / "demo"
    kill_when(output, lambda: (output / "state/digits/rala.pt").exists())
    epochs = epochs_reached(output)
    kill_when(output, lambda: (output / "state/digits/softmax.pt").exists())
    done = subprocess.run(command(output, "--only", *KILLED), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return output, epochs, done.stderr


def kill_when(output, reached):
    log = open(output.parent / "log", "a")  # noqa: SIM115  a pipe that nobody reads could fill
    process = subprocess.Popen(command(output, "--only", *KILLED), stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 400
        while not reached():
            assert process.poll() is None, (output.parent / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        log.close()


def epochs_reached(output):
    import torch

    return len(torch.load(output / "state/digits/rala.pt", weights_only=True)["history"])


def test_a_killed_run_ends_with_the_figures_of_an_undisturbed_one(whole, killed):
    output, epochs, _ = killed
    assert epochs < 3  # killed while training, not after it
    got, want = results(output)["parts"], results(whole)["parts"]
    assert set(got) == set(KILLED)
    assert got == {name: want[name] for name in KILLED}


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(whole, killed):
    import torch

    for mixer in ("rala", "softmax"):
        ends = [torch.load(o / f"state/digits/{mixer}.pt", weights_only=True) for o in (whole, killed[0])]
        assert all(torch.equal(ends[0]["model"][key], ends[1]["model"][key]) for key in ends[0]["model"])


def test_a_killed_run_does_not_repeat_what_was_finished(killed):
    assert "digits, rala" not in killed[2]
    assert "digits, softmax" in killed[2]


def test_a_killed_run_leaves_no_temporary_files(killed):
    assert not [file for file in killed[0].rglob("*") if file.name.endswith(".tmp")]


def test_training_lowers_the_loss(whole):
    for row in results(whole)["parts"]["digits"]["rows"]:
        losses = [entry["loss"] for entry in row["history"]]
        assert losses[-1] < losses[0] - 0.1


def test_times_and_memory_are_measured_and_the_rest_is_extrapolated(whole):
    series = json.loads((whole / "results.json").read_text())["parts"]["scaling"]["series"]
    for found in series.values():
        assert [point["size"] for point in found["points"]] == [64, 128]
        assert all(point["seconds"] > 0 and point["megabytes"] > 0 for point in found["points"])
        assert [point["size"] for point in found["extrapolated"]] == [4096]
        assert "would take about" in found["stopped"]


def test_a_finished_run_does_nothing_again(whole, capsys):
    before = {file: file.stat().st_mtime_ns for file in (whole / "state").rglob("*.*")}
    began = time.process_time()
    assert main(["demo", "--quick", "--output", str(whole)]) == 0
    assert time.process_time() - began < 5
    assert capsys.readouterr().err == ""
    assert {file: file.stat().st_mtime_ns for file in (whole / "state").rglob("*.*")} == before


def test_a_part_alone_leaves_the_finished_ones_on_the_page(whole):
    assert main(["demo", "--quick", "--output", str(whole), "--only", "attention"]) == 0
    assert set(results(whole)["parts"]) == set(PARTS)


def test_parts_not_asked_for_are_named_as_missing(killed):
    page = (killed[0] / "index.html").read_text()
    assert "Not finished:" in page and "lidar" in page.split("Not finished:")[1].split("</p>")[0]


def test_a_picture_that_was_deleted_is_drawn_again(whole):
    picture = whole / "scaling" / "scaling_time.png"
    before = json.loads((whole / "results.json").read_text())["parts"]["scaling"]["series"]
    picture.unlink()
    assert main(["demo", "--quick", "--output", str(whole)]) == 0
    assert picture.exists()
    assert json.loads((whole / "results.json").read_text())["parts"]["scaling"]["series"] == before


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_loads_nothing_from_elsewhere(whole):
    text = (whole / "index.html").read_text()
    tags = Page(text).tags
    sources = [
        value for _, a in tags for name, value in a.items() if name in ("src", "href", "srcset", "data")
    ]
    assert len(sources) > 20
    assert all(source.startswith("data:") for source in sources)
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in tags}
    assert not re.search(r"@import|url\(|https?://", re.sub(r"data:[^\"]*", "", text))


def test_the_page_shows_every_part_and_every_picture_once(whole):
    tags = Page((whole / "index.html").read_text()).tags
    assert sum(tag == "section" for tag, _ in tags) == len(PARTS)
    files = [f for name in PARTS for f in (whole / name).glob("*.png")]
    shown = sum(tag in ("img", "source") for tag, _ in tags)
    assert shown == len(files)
    assert all(a.get("alt") for tag, a in tags if tag == "img")


def test_the_page_fits_a_phone_and_a_dark_screen(whole):
    text = (whole / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert "A quick run" in text


def test_two_runs_cannot_write_the_same_folder(tmp_path, capsys):
    from linzoo.tools.demo import claim
    from linzoo.tools.demo.store import only_one

    claim(tmp_path)
    with only_one(tmp_path):
        assert main(["demo", "--quick", "--output", str(tmp_path)]) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert "--output must be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("extra", [(), ("--restart",)])
def test_a_folder_that_holds_other_files_is_refused_and_unchanged(tmp_path, capsys, extra):
    for name in ("digits/notes.txt", "state/mine.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("precious")
    assert main(["demo", "--quick", "--output", str(tmp_path), *extra]) == 2
    assert "holds other files" in capsys.readouterr().err
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert kept == ["digits/notes.txt", "state/mine.txt"]
