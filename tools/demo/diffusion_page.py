"""What the diffusion part shows: sheets of digits side by side, errors, and the recorded long run."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..digits_diffusion.students import STUDENTS
from . import page

INTRO = """<p>A class-conditional DiT with softmax attention has learnt scikit-learn's 8 x 8 digits, one
token a pixel. Copies of it get other attention and are trained for {steps} steps of {batch} digits with
<code>linzoo distill</code>: LiT (ReLU linear attention, two heads and a 5 x 5 depthwise convolution), the
same from random weights and without a teacher, CLEAR (softmax over the 25 nearest pixels), and ReLU linear
attention without the convolution. Below, {rows} digits of each class from each, from the same noise.</p>"""
NOTE = """<p class="soft">Noise error: mean squared difference to the noise that the teacher predicts, over
all 1,000 timesteps, on held-out digits; 0 is the teacher itself. {steps} steps are a start, not a result:
the long run below has more.</p>"""
LONG = """<h3>The long run: recorded, not re-run</h3><p>{steps} steps for every student, {seeds} seeds.
Distance: Fréchet distance between the features of {pictures} drawn digits and of the training digits, in
the space of a small classifier; the first row is what as many real, held-out digits get. A range is that of
the seeds.</p>"""
MADE = """<p class="soft">{made}, by <code>{command}</code>. The sheets are drawn with guidance
{guidance:g}, the distances without guidance; {sample_steps} DDIM steps. Read as asked: the classifier sees
the digit that was asked for.</p>"""
SHOWS = """<p>What it shows: after the same steps, linear students that keep the teacher's weights outside
the attention and imitate it draw digits almost like the teacher's, and the same network from random weights
draws none that can be read. CLEAR, whose attention starts from the teacher's too, stays nearest; that its
distance is below the teacher's may come from its {steps} further steps on the digits. The convolution lowers
the error against the teacher, not the distance: on 8 x 8 pixels plain linear attention does as well.</p>"""
LIMITS = """<p class="soft">What this does not show: anything about speed, since 64 tokens are too few for
linear attention to save time; or about large pictures or text. CLEAR's window holds 25 of 64 tokens here, a
far larger share than in a real picture.</p>"""
ABSENT = """<p class="soft">No long run is recorded.</p>"""
MISSING = """<p>No student was trained. Not installed: {packages}
(<code>pip install "linzoo[data,diffusion]"</code>).</p>"""


def page_of(section: dict, folder: Path) -> str:
    if section["missing"]:
        body = MISSING.format(packages=", ".join(section["missing"]))
    else:
        body = short_run(section["settings"], section["rows"], folder)
    return body + (long_run(section["recorded"], folder) if section["recorded"] else ABSENT) + LIMITS


def short_run(options: dict, rows: list[dict], folder: Path) -> str:
    when = f"after {options['steps']} steps"
    body = INTRO.format(steps=options["steps"], batch=options["batch"], rows=options["sheet_rows"])
    body += sheets(folder, "{}.png", ["teacher", *(row["student"] for row in rows)], when)
    head = ("student", "noise error before", when, "CPU time")
    return body + page.table(head, [short_row(row) for row in rows]) + NOTE.format(steps=options["steps"])


def sheets(folder: Path, file: str, names: list[str], when: str) -> str:
    figures = []
    for name in names:
        text = label(name) if name == "teacher" else f"{label(name)}, {when}"
        figures.append(page.figure(folder / file.format(name), f"digits drawn by {text}", escape(text)))
    return page.grid(figures, "medium")


def label(name: str) -> str:
    others = {"teacher": "the softmax teacher", "real": "real digits, held out"}
    return others[name] if name in others else STUDENTS[name].label


def short_row(row: dict) -> tuple[str, ...]:
    errors = [f"{row[when]['teacher_error']:.4f}" for when in ("before", "after")]
    return label(row["student"]), *errors, f"{row['cpu_seconds']:.0f} s"


def long_run(recorded: list[dict], folder: Path) -> str:
    models = list(dict.fromkeys(row["model"] for row in recorded))
    found = {model: [row for row in recorded if row["model"] == model] for model in models}
    options = recorded[0]["settings"]
    body = LONG.format(steps=options["steps"], seeds=len(options["seeds"]), pictures=recorded[0]["pictures"])
    head = ("model", "distance", "noise error", "read as asked", "CPU time to train")
    body += page.table(head, [long_row(model, rows) for model, rows in found.items()])
    names = [model for model in models if model != "real"]
    body += sheets(folder, "recorded_{}.png", names, f"after {options['steps']} steps")
    body += SHOWS.format(steps=options["steps"])
    made = dict.fromkeys(f"{r['date']}, {r['device']}, commit {r['commit']}" for r in recorded)
    return body + MADE.format(
        made=escape("; ".join(made)), command=escape(recorded[0]["command"]),
        guidance=options["sheet_guidance"], sample_steps=options["sample_steps"],
    )  # fmt: skip


def long_row(model: str, rows: list[dict]) -> tuple[str, ...]:
    def span(key: str, form: str, factor: float = 1.0) -> str:
        """Mean, and the range where there are several."""
        values = [factor * row[key] for row in rows if key in row]
        if not values:
            return "-"
        mean, low, high = sum(values) / len(values), min(values), max(values)
        words = [form.format(value) for value in (mean, low, high)]
        return words[0] if words[1] == words[2] else f"{words[0]} ({words[1]} - {words[2]})"

    error = "0" if model == "teacher" else span("teacher_error", "{:.4f}")
    read, seconds = span("read_as_asked", "{:.0f}", 100.0), span("cpu_seconds", "{:.0f}")
    return (
        label(model),
        span("distance", "{:.2f}"),
        error,
        f"{read} %",
        seconds if seconds == "-" else f"{seconds} s",
    )
