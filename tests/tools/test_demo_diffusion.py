"""The demo's diffusion part: a few steps of students, what the page says and what it warns of."""

import re

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from linzoo.tools.demo import diffusion, diffusion_page
from linzoo.tools.demo.context import Context
from linzoo.tools.demo.store import PartStore
from linzoo.tools.digits_diffusion import measures
from linzoo.tools.digits_diffusion.record import recorded

SETTINGS = diffusion.settings(quick=True)


def run(folder):
    pictures = folder / "diffusion"
    pictures.mkdir(exist_ok=True)
    store = PartStore(folder / "state" / "diffusion", SETTINGS)
    return diffusion.run(
        Context(folder=pictures, settings=SETTINGS, store=store, state=folder / "state")
    ), pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was stopped behind its first student, and its continuation."""
    folder = tmp_path_factory.mktemp("demo")
    whole = diffusion.student
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "TIMESTEPS", 100)

        def stopped(name, judge, context):
            if name == "clear":
                raise KeyboardInterrupt
            return whole(name, judge, context)

        patch.setattr(diffusion, "student", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
        patch.setattr(diffusion, "student", whole)
        first = PartStore(folder / "state" / "diffusion", SETTINGS).get("lit")
        section, pictures = run(folder)
    return section, pictures, first


def test_a_stopped_part_does_not_repeat_a_student(made):
    section, _, first = made
    assert section["rows"][0] == first
    assert [row["student"] for row in section["rows"]] == ["lit", "clear"]


def test_training_brings_a_student_nearer_to_the_teacher(made):
    for row in made[0]["rows"][:1]:  # two steps; CLEAR starts near
        assert row["after"]["teacher_error"] < row["before"]["teacher_error"]


def test_every_picture_is_on_the_page_once(made):
    section, folder, _ = made
    page = diffusion.html(section, folder)
    shown = len(re.findall(r"<(?:img|source) ", page))
    assert shown == len(list(folder.glob("*.png"))) > len(SETTINGS["students"])
    assert "://" not in page


def test_the_page_says_what_was_recorded_and_what_is_not_shown(made):
    section, folder, _ = made
    page = diffusion.html(section, folder)
    assert "recorded, not re-run" in page and "not show" in page and "speed" in page
    for model in {row["model"] for row in recorded()}:
        assert diffusion_page.label(model) in page
    assert recorded()[0]["command"] in page and recorded()[0]["commit"] in page


def test_what_the_page_says_of_the_long_run_is_what_its_rows_say():
    def of(model, key):
        values = [row[key] for row in recorded() if row["model"] == model]
        return min(values), max(values)

    inherited = ("lit", "linear", "clear")
    assert all(4 * of(model, "distance")[1] < of("scratch", "distance")[0] for model in inherited)
    assert of("scratch", "read_as_asked")[1] < 0.2 and of("lit", "read_as_asked")[0] > 0.8
    assert of("clear", "distance")[1] < of("teacher", "distance")[0]  # "below the teacher's"
    assert of("lit", "teacher_error")[1] < of("linear", "teacher_error")[0]  # what the convolution does
    low, high = of("linear", "distance")
    assert of("lit", "distance")[0] < low < high < of("lit", "distance")[1]  # and what it does not


def test_a_page_without_a_recorded_run_says_so(made):
    section, folder, _ = made
    assert "No long run is recorded" in diffusion.html(section | {"recorded": []}, folder)


def test_without_diffusers_the_page_says_so_and_shows_what_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "NEEDED", ("a_package_that_nobody_has",))
    section, folder = run(tmp_path)
    page = diffusion.html(section, folder)
    assert "Not installed: a_package_that_nobody_has" in page and "recorded, not re-run" in page
    assert page.count("<img ") == len(list(folder.glob("*.png")))


def test_a_range_is_shown_where_there_are_seeds():
    rows = [{"distance": value, "read_as_asked": 0.5, "teacher_error": 0.01} for value in (1.0, 2.0, 3.0)]
    assert diffusion_page.long_row("lit", rows)[1] == "2.00 (1.00 - 3.00)"
    assert diffusion_page.long_row("lit", rows[:1])[1] == "1.00"
    assert diffusion_page.long_row("real", rows[:1])[-1] == "-"
