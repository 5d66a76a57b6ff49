"""A ladder that is stopped, however hard, goes on after its last finished rung to the same pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image
from safetensors.torch import load_file, save_file

from linzoo.diffusion.highres.store import digest

from .highres_killed import CASES, climb, store_of

TESTS = Path(__file__).parents[1]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(np.asarray(i), np.asarray(j)) for i, j in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def whole():
    """Pictures of runs that nothing stopped and nobody kept."""
    return {kind: climb(kind, None) for kind in ("flux", "sdxl")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from diffusion import highres_killed as h; h.main('.')"
    )
    run = [sys.executable, "-c", code, str(TESTS)]
    out = subprocess.run(run, capture_output=True, text=True, timeout=600, cwd=folder)
    assert out.returncode == 0, out.stderr
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_a_run_killed_hard_resumes_to_the_same_pictures(killed, whole, case):
    kind, number, when = case
    store = store_of(killed, case)
    finished = number + (when == "after")
    assert len(list(store.glob("rung_*.safetensors"))) == finished
    drawn = []
    found = climb(kind, store, callback_on_rung_end=lambda pipe, at, image: drawn.append(at))
    assert drawn == list(range(finished, 3))  # the others were not drawn again
    assert same(found, whole[kind])
    assert not [path for path in store.iterdir() if path.name.startswith(".") and "tmp" in path.name]


def test_a_finished_run_is_read_and_its_generator_ends_where_it_ended(tmp_path, whole):
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    drawn = []
    climb("flux", tmp_path, generator=generators[0])
    found = climb("flux", tmp_path, generator=generators[1], callback_on_rung_end=lambda *a: drawn.append(a))
    assert same(found, whole["flux"]) and not drawn
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    names = {f"rung_{i}.{end}" for i in range(3) for end in ("png", "safetensors")} | {"run.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for i in range(3):
        with Image.open(tmp_path / f"rung_{i}.png") as file:
            assert same([file], whole["flux"][i : i + 1])


def test_a_rung_without_its_second_file_and_those_above_it_are_drawn_again(tmp_path, whole):
    climb("flux", tmp_path)
    (tmp_path / "rung_1.safetensors").unlink()
    (tmp_path / "rung_1.png").write_bytes(b"half")
    drawn = []
    assert same(climb("flux", tmp_path, callback_on_rung_end=lambda p, i, m: drawn.append(i)), whole["flux"])
    assert drawn == [1, 2]


def test_what_the_store_keeps_is_what_the_next_rung_reads(tmp_path, whole):
    climb("sdxl", tmp_path)
    for number in (1, 2):
        (tmp_path / f"rung_{number}.safetensors").unlink()
    tensors = load_file(tmp_path / "rung_0.safetensors")
    assert set(tensors) == {"generator.0", "mean", "std"}
    save_file(tensors | {"std": tensors["std"] * 2}, tmp_path / "rung_0.safetensors")
    found = climb("sdxl", tmp_path)
    assert same(found[:1], whole["sdxl"][:1])
    assert not same(found[1:2], whole["sdxl"][1:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": torch.Generator().manual_seed(8)}, "another's: generator was"),
        ({"guidance_scale": 5.0}, "another's: guidance_scale was None, now 5.0"),
        ({"num_inference_steps": 5}, "another's: steps was 4, now 5"),
        ({"height": 128, "width": 192}, "another's: sizes was"),
    ],
)
def test_the_rungs_of_another_run_are_refused_and_left(tmp_path, changes, message):
    store = keep(tmp_path)
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    with pytest.raises(ValueError, match=message):
        climb("flux", store, **changes)
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_resume_false_begins_anew(tmp_path, whole):
    store = keep(tmp_path)
    drawn = []
    found = climb("flux", store, resume=False, callback_on_rung_end=lambda p, i, m: drawn.append(i))
    assert drawn == [0, 1, 2] and same(found, whole["flux"])


def test_without_a_generator_a_kept_run_makes_one_and_goes_on_with_it(tmp_path):
    first = climb("flux", tmp_path, generator=None)
    (tmp_path / "rung_2.safetensors").unlink()
    assert same(climb("flux", tmp_path, generator=None), first)
    other = climb("flux", tmp_path, generator=None, resume=False)
    assert not same(other, first)


def test_the_last_picture_lies_where_it_was_asked_for_and_nowhere_else(tmp_path, whole):
    output = tmp_path / "out.tiff"
    climb("flux", tmp_path / "store", output=output)
    assert not (tmp_path / "store" / "rung_2.png").exists()
    with Image.open(output) as file:
        assert same([file], whole["flux"][2:])
    output.unlink()
    drawn = []
    climb("flux", tmp_path / "store", output=output, callback_on_rung_end=lambda p, i, m: drawn.append(i))
    assert drawn == [2] and output.is_file()


def test_digests_differ_when_a_value_does():
    x = torch.arange(4.0)
    values = [x, x + 1, x.double(), x.view(2, 2), None, "x", 1, 1.5, [1, 2], {"a": x}, {"a": x + 1}]
    values += [Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "red"), Image.new("RGB", (1, 4))]
    found = [digest(value) for value in values]
    assert len(set(found)) == len(found)
    assert digest({"b": 1, "a": x}) == digest({"a": x.clone(), "b": 1})


def keep(folder: Path) -> Path:
    """A store with the first rung of a run."""
    store = folder / "kept"

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        climb("flux", store, callback_on_rung_end=stop)
    assert json.loads((store / "run.json").read_text())["steps"] == "4"
    return store
