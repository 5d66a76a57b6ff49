"""The recorded long runs of the street scenes: detectors, several seeds, judged on unseen scenes."""

from __future__ import annotations

from html import escape
from pathlib import Path

from . import page

LABELS = {"lion_retnet": "LION-RetNet", "lion_mamba": "LION-Mamba", "scatterformer": "ScatterFormer"}
LABELS |= {f"{name}_pasted": f"{label}, pasted" for name, label in LABELS.items()}
LONG = """<h3>The long runs on drawn scenes: recorded, not re-run</h3><p>Small forms from random
weights, {seeds} seeds; judged on {scenes} unseen scenes. Updates are given with the scenes of each. Cells are
means over the seeds, with the range in brackets. What a trained detector finds in unseen scenes is drawn
below, labels dashed.{pasted}</p>"""
PASTED = """ <b>Pasted</b>: trained on scenes that are filled up with road users of other scenes, and
turned."""
BY_CLASS = """<p>By class. Yaw errors are means over the objects that were found: modulo a half turn, where
front and back are alike, and modulo a whole turn.</p>"""
MADE = """<p class="soft">{made}, by <code>{command}</code>.</p>"""
YAW = """<p>What it shows:</p><ul>{found}</ul><p>A guess is 45&deg; off modulo a half turn and 90&deg; modulo
a whole one. Every drawn road user has a front (a car's cabin sits behind a bonnet, a pedestrian carries a
forearm forward, a cyclist's arms reach ahead): of a box that is its own mirror image nothing tells front from
back. What it does not show: a ranking of the detectors, whose sizes and costs differ, or anything about real
traffic.</p>"""
READ = 45.0  # degrees off modulo a whole turn, half a guess's, below which headings count as read
ABSENT = """<p class="soft">No long run on drawn scenes is recorded.</p>"""


def page_of(rows: list[dict], folder: Path) -> str:
    if not rows:
        return ABSENT
    of = {name: [row for row in rows if row["detector"] == name] for name in detectors_in(rows)}
    first = rows[0]
    body = LONG.format(
        seeds=max(len(found) for found in of.values()), scenes=first["test_scenes"],
        pasted=PASTED if any(name.endswith("_pasted") for name in of) else "",
    )  # fmt: skip
    head = ("detector", "parameters", "updates", "AP 3D", "AP BEV", "centre error", "time to train")
    body += page.table(head, [whole_row(name, found) for name, found in of.items()]) + BY_CLASS
    degrees = "yaw mod {}\N{DEGREE SIGN}"
    head = ("detector and class", "AP 3D", "AP BEV", "centre error", degrees.format(180))
    lines = [class_row(name, found, one) for name, found in of.items() for one in classes_of(found)]
    body += page.table((*head, degrees.format(360)), lines)
    body += YAW.format(found="".join(f"<li>{headings(name, found)}</li>" for name, found in of.items()))
    body += sheets(of, folder)
    made = dict.fromkeys(f"{r['date']}, {r['on']}, torch {r['torch']}, commit {r['commit']}" for r in rows)
    return body + MADE.format(made=escape("; ".join(made)), command=escape(first["command"]))


def detectors_in(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["detector"] for row in rows))


def classes_of(rows: list[dict]) -> list[str]:
    from .lidar_page import classes_of

    return classes_of(rows[0]["metrics"])


def whole_row(name: str, rows: list[dict]) -> list[str]:
    figures = [span(rows, f"mean_{key}", *form) for key, *form in (AP_3D, AP_BEV, CENTRE)]
    minutes = [row["seconds"] / 60 for row in rows if row["seconds"] and not row["resumed"]]
    updates = f"{rows[0]['updates']} \N{MULTIPLICATION SIGN} {rows[0]['frames_an_update']}"
    return [
        LABELS.get(name, name),
        f"{rows[0]['parameters']:,}",
        updates,
        *figures,
        spread(minutes, ".0f", " min"),
    ]


def class_row(name: str, rows: list[dict], one: str) -> list[str]:
    columns = (AP_3D, AP_BEV, CENTRE, YAW_PI, YAW_2PI)
    return [
        f"{LABELS.get(name, name)}, {one}",
        *(span(rows, f"{one}_{key}", *form) for key, *form in columns),
    ]


# key in the metrics, format, unit
AP_3D, AP_BEV, CENTRE = ("ap_3d", ".0f", ""), ("ap_bev", ".0f", ""), ("centre_error", ".2f", " m")
YAW_PI, YAW_2PI = (("yaw_error_pi", ".0f", "\N{DEGREE SIGN}"), ("yaw_error_2pi", ".0f", "\N{DEGREE SIGN}"))


def values_of(rows: list[dict], key: str) -> list[float]:
    """A figure of every seed that has it."""
    return [value for row in rows if (value := row["metrics"].get(key)) is not None]


def span(rows: list[dict], key: str, form: str, unit: str) -> str:
    return spread(values_of(rows, key), form, unit)


def spread(values: list[float], form: str, unit: str) -> str:
    """Mean, and the range where there are several."""
    if not values:
        return "-"
    mean, low, high = (f"{v:{form}}" for v in (sum(values) / len(values), min(values), max(values)))
    return mean + unit + ("" if low == high else f" ({low} - {high})")


def headings(name: str, rows: list[dict]) -> str:
    """A sentence on the classes whose headings are read, and those whose hardly are."""
    read, unread = [], []
    for one in classes_of(rows):
        errors = [values_of(rows, f"{one}_{key}") for key in ("yaw_error_pi", "yaw_error_2pi")]
        if all(errors):
            half, whole = (sum(values) / len(values) for values in errors)
            if whole < READ:
                read.append(off(one, half, whole))
            else:
                unread.append(f"{one.lower()}s ({whole:.0f}\N{DEGREE SIGN})")
    words = [f"reads the headings of {joined(read)}"] if read else []
    if unread:
        whose = "those" if read else "the headings"
        words.append(f"hardly reads {whose} of {joined(unread)}")
    return f"{LABELS.get(name, name)} {joined(words)}." if words else ""


def off(one: str, half: float, whole: float) -> str:
    """A class with its errors modulo a half and a whole turn, and the share turned round that gives both.

    A box that is turned round is off by a half turn less its error modulo a half turn.
    """
    turned = 100 * (whole - half) / (180 - 2 * half)
    errors = (
        f"{half:.0f}\N{DEGREE SIGN} off modulo a half turn, {whole:.0f}\N{DEGREE SIGN} modulo a whole one"
    )
    return f"{one.lower()}s ({errors}, as if {turned:.0f} % were turned round)"


def sheets(of: dict[str, list[dict]], folder: Path) -> str:
    figures = []
    for name in of:
        file = folder / f"recorded_{name}.png"
        if file.exists():
            label = LABELS.get(name, name)
            figures.append(page.figure(file, f"unseen scenes with boxes that {label} found", escape(label)))
    return "".join(figures)


def joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
