"""The diffusion model of digits: the distance between sets, the committed weights, the long run's rows."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch
from torch import nn

from linzoo.tools.digits_diffusion import measures, record
from linzoo.tools.digits_diffusion.data import NO_CLASS, load_digits
from linzoo.tools.digits_diffusion.features import WEIGHTS, load_features, share_right
from linzoo.tools.digits_diffusion.measures import frechet_distance, noise_errors, noisy_digits
from linzoo.tools.digits_diffusion.students import STUDENTS, draw, sheet, sheet_labels, untrained
from linzoo.tools.digits_diffusion.teacher import WEIGHTS as TEACHER
from linzoo.tools.digits_diffusion.teacher import load_teacher

TINY = {
    "steps": 4, "seeds": [0, 1], "sample_steps": 2, "noise_rounds": 1, "sheet_rows": 1, "sheet_guidance": 1.5,
}  # fmt: skip
# the long run with everything small, in a process that can be killed
COMMAND = """
import json, pathlib, sys
from linzoo.tools.digits_diffusion import measures, record, students
measures.TIMESTEPS = 20
record.STUDENTS = {"lit": students.STUDENTS["lit"]}
output = pathlib.Path(sys.argv[1])
record.record(output, json.loads(sys.argv[2]), output / "results")
"""


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def features():
    return load_features()


@pytest.fixture(scope="module")
def teacher():
    return load_teacher()


# the distance


class FirstTwo(nn.Module):
    """The first two pixels are the features."""

    num_features = 2

    def forward(self, pictures):
        return pictures[:, 0, 0, :2]


def cross(mean, spread):
    """Four pictures whose first two pixels have this mean and these deviations, uncorrelated."""
    points = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64) * (3 / 2) ** 0.5
    pictures = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    pictures[:, 0, 0, :2] = torch.tensor(mean) + points * torch.tensor(spread)
    return pictures


def test_two_normal_laws_have_the_distance_of_their_means_and_deviations():
    found = frechet_distance(FirstTwo(), cross((0.1, 0.2), (0.3, 0.1)), cross((-0.2, 0.0), (0.1, 0.2)))
    assert found == pytest.approx(0.3**2 + 0.2**2 + 0.2**2 + 0.1**2, rel=1e-6)


def test_a_set_has_no_distance_to_itself(digits, features):
    assert abs(frechet_distance(features, digits.train, digits.train)) < 1e-9


def test_the_distance_grows_with_noise_and_is_large_for_blurred_digits(digits, features):
    noise = torch.randn(digits.held_out.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        frechet_distance(features, digits.train, digits.held_out + level * noise) for level in (0, 0.2, 0.5)
    ]
    assert distances[0] < 1 < distances[1] < distances[2]
    blurred = nn.functional.avg_pool2d(digits.held_out, 3, 1, 1)
    assert frechet_distance(features, digits.train, blurred) > 10 * distances[0]


# the committed weights


def test_committed_weights_are_small():
    assert WEIGHTS.stat().st_size < 1e6
    assert (TEACHER / "diffusion_pytorch_model.safetensors").stat().st_size <= 3e6


def test_the_classifier_reads_held_out_digits(digits, features):
    assert share_right(features, digits.held_out.double(), digits.held_out_labels) > 0.98


def test_held_out_digits_are_none_that_students_train_on(digits):
    from linzoo.tools.distillation.samples import Digits

    trained = Digits()
    assert torch.equal(trained.pixels, digits.train)
    assert len(trained) + len(digits.held_out) == 1797


@pytest.fixture(scope="module")
def noisy(teacher, digits):
    model, scheduler = teacher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "TIMESTEPS", 250)  # those at which a picture can still be seen
        return noisy_digits(model, scheduler.alphas_cumprod, digits, 1)


def test_every_timestep_is_judged_equally_often_and_the_teacher_has_no_error_to_itself(teacher, noisy):
    assert (noisy.t.bincount() == 1).all() and len(noisy.t) == 250
    assert noise_errors(teacher[0], noisy)["teacher"] < 1e-12


def test_the_teacher_predicts_the_noise_of_digits_that_it_has_not_seen(teacher, noisy):
    assert noise_errors(teacher[0], noisy)["noise"] < 0.3
    assert noisy.noise.square().mean() == pytest.approx(1, abs=0.05)  # what saying nothing would get


def test_the_teacher_uses_the_class(teacher, noisy):
    errors = []
    for labels in (noisy.labels, torch.full_like(noisy.labels, NO_CLASS), (noisy.labels + 1) % 10):
        found = measures.predict_noise(teacher[0], noisy.pictures, labels, noisy.t)
        errors.append((found - noisy.noise).square().mean())
    assert errors[0] < errors[1] < errors[2]


def test_the_teacher_draws_the_digits_that_are_asked_for(teacher, features):
    labels = sheet_labels(3)
    drawn = draw(*teacher, labels, steps=12, guidance=1.5, seed=5)
    assert share_right(features, drawn.double(), labels) > 0.8


# students


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_linear_everywhere_and_starts_from_the_teacher_or_not(name, teacher):
    from linzoo.diffusion import linearized

    model, own = untrained(name, 0), dict(teacher[0].named_parameters())
    assert len(linearized(model).modules) == teacher[0].config.num_layers
    kept = [
        n for n, p in model.named_parameters() if n in own and ".attn1." not in n and torch.equal(p, own[n])
    ]
    outside = [n for n in own if ".attn1." not in n]
    assert (len(kept) == len(outside)) == (name != "scratch")
    assert any(".conv." in n for n, _ in model.named_parameters()) == (name in ("lit", "scratch"))


def test_a_sheet_has_a_column_for_each_class_and_dark_ink():
    pictures = -torch.ones(20, 1, 8, 8)
    pictures[13] = 1.0  # second row, a 3
    pixels = sheet(pictures, enlarged=1)
    assert pixels.shape == (17, 89)
    assert (pixels[9:17, 27:35] == 0).all() and (pixels == 0).sum() == 64


# the long run


def figures(output):
    rows = [json.loads(line) for line in (output / "results" / record.ROWS).read_text().splitlines()]
    timed = ("cpu_seconds", "judging_cpu_seconds", "resumed", "date", "commit")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed when its first student was judged, then left to end."""
    output = tmp_path_factory.mktemp("killed")
    records = output / "full" / "state" / "records.json"
    words = [sys.executable, "-c", COMMAND, str(output), json.dumps(TINY)]
    with open(output / "log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        limit = time.monotonic() + 300
        while not (records.exists() and "lit-0" in records.read_text()):
            assert process.poll() is None, (output / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before, said = json.loads(records.read_text()), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(measures, "TIMESTEPS", 20)
        patch.setattr(record, "STUDENTS", {"lit": STUDENTS["lit"]})
        record.record(output, TINY, output / "results")
    return output, before, said.getvalue()


def test_a_killed_run_keeps_what_was_done_and_goes_on(killed):
    output, before, said = killed
    rows = {f"{row['model']}-{row.get('seed')}": row for row in figures(output)}
    assert list(rows) == ["real-None", "teacher-0", "teacher-1", "lit-0", "lit-1"]
    for key in before:
        assert rows[key]["distance"] == before[key]["distance"]
    assert "lit, seed 0" not in said and "lit, seed 1" in said


def test_rows_say_where_they_come_from(killed):
    rows = [json.loads(line) for line in (killed[0] / "results" / record.ROWS).read_text().splitlines()]
    for row in rows:
        assert row["command"] == "python -m linzoo.tools.digits_diffusion full"
        assert {"commit", "device", "date", "torch", "settings"} <= row.keys()
    assert rows[-1]["steps"] == TINY["steps"] and rows[-1]["cpu_seconds"] > 0
    assert rows[0]["model"] == "real" and rows[0]["distance"] < 1


def test_the_recorded_run_has_every_student_with_the_same_steps_and_a_sheet():
    rows = record.recorded()
    models = {row["model"] for row in rows}
    assert models == {"real", "teacher", *STUDENTS}
    assert len({row["steps"] for row in rows if row["model"] in STUDENTS}) == 1
    for model in models - {"real"}:
        assert (record.RESULTS / record.SHEET.format(model)).exists()
