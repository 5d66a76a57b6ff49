"""What part 4 shows: scenes with the boxes that were found, and time and memory of a backbone."""

from __future__ import annotations

from html import escape
from pathlib import Path

from . import page, pictures
from .detection_scenes import CLASSES
from .scaling_page import duration

COLOURS = {"cat": (240, 120, 30), "cup": (30, 120, 230), "astronaut": (20, 160, 80)}
ENLARGED = 3
LABELS = {"linear": "linear", "published": "published: softmax in stages 3 and 4", "softmax": "softmax"}
BARS = {"linear": "rala", "published": "nala", "softmax": "softmax"}  # whose colour


def draw(folder: Path, section: dict) -> None:
    draw_time(folder / "detection_time.png", section["points"], section["recorded"])
    if section["detector"]:
        from .detection_training import test_scenes

        options = section["settings"]["detector"]
        shown = test_scenes(options)[: options["shown"]]
        for number, (scene, found) in enumerate(zip(shown, section["detector"]["found"], strict=False)):
            draw_scene(folder / f"scene_{number}.png", scene.pixels, found)


def draw_scene(path: Path, pixels, found: list[list[float]]) -> None:
    import numpy as np
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels).resize([ENLARGED * side for side in pixels.shape[1::-1]])
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1, _, label in found:
        corners = [ENLARGED * value for value in (x0, y0, x1, y1)]
        pen.rectangle(corners, outline=(255, 255, 255), width=6)
        pen.rectangle(corners, outline=COLOURS[CLASSES[int(label)]], width=4)
    pictures.picture(path, np.asarray(image))


def draw_time(path: Path, points: list[dict], recorded: list[dict]) -> None:
    def draw(axes, colours) -> None:
        rows = sorted([*points, *recorded], key=lambda p: (p["height"], list(LABELS).index(p["mixers"])))
        for place, row in enumerate(rows):
            colour, hatch = colours[BARS[row["mixers"]]], "" if row in points else "//"
            axes.bar(place, row["seconds"], 0.7, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            axes.annotate(
                duration(row["seconds"]), (place, row["seconds"]), (0, 3), textcoords="offset points",
                ha="center", fontsize=9.5, color=colour,
            )  # fmt: skip
        axes.set_xticks(range(len(rows)), [f"{r['mixers']}\n{r['height']} x {r['width']}" for r in rows])
        axes.set_ylim(0, 1.15 * max(row["seconds"] for row in rows))

    pictures.chart(path, draw, "mixers and picture", "CPU seconds, one thread", "One pass of the backbone")


DETECTOR = """<p>A RetinaNet from <code>configs/detection</code>, cut down to {parameters:.2f} M parameters,
with linear attention in every stage, learns for {steps} steps of {batch} scenes: cut-outs of three
photographs, mirrored, scaled, brighter or darker, pasted on two textures. It is tested on {tests} scenes on
a texture that it has never seen.</p>"""
FACTS = """<p>COCO average precision <b>{ap:.1f}</b> (AP50 {ap50:.1f}, AP75 {ap75:.1f}) on {objects} objects,
after {seconds:.0f} s of one CPU thread; the loss went from {first:.2f} to {last:.2f}. The first {shown} test
scenes, with every box whose score is above {score}:</p>"""
NOTE = """<p class="soft">Three objects that always look the same are easy: this shows that a detector with
these backbones trains and finds, not how well it would do on COCO. Photographs: chelsea, coffee, astronaut;
textures: brick, grass, gravel, all from scikit-image (CC0 or public domain).</p>"""
ABSENT = """<p>No detector was trained: mmdetection is not installed
(<code>pip install "linzoo[detection]"</code>).</p>"""
BACKBONE = """<h3>Backbones at detection's sizes</h3><p><code>{model}</code> without its classifier, one
picture, float32, one thread, each row in a process of its own: linear attention in all four stages, as
published, and softmax in all four.</p>"""
MEMORY = """<p class="soft">Memory is the high-water mark of the process less what it held before. Softmax
takes no more of it: torch works through it in blocks. Hatched bars and rows marked * are recorded, not
re-run: {recorded}. Softmax in all four stages at the larger size was not run.</p>"""


def page_of(section: dict, folder: Path) -> str:
    detector, options = section["detector"], section["settings"]["detector"]
    body = detector_html(detector, options, folder) if detector else ABSENT
    body += BACKBONE.format(model=section["settings"]["model"])
    chart = page.figure(folder / "detection_time.png", "CPU time of a backbone by mixers and picture")
    body += page.grid([chart], "wide")
    rows = [row(point, "") for point in section["points"]] + [
        row(point, " *") for point in section["recorded"]
    ]
    body += page.table(("mixers", "picture", "time", "memory"), rows)
    made = dict.fromkeys(f"{r['date']}, {r['device']}, commit {r['commit']}" for r in section["recorded"])
    return body + (MEMORY.format(recorded=escape("; ".join(made))) if made else "")


def detector_html(detector: dict, options: dict, folder: Path) -> str:
    body = DETECTOR.format(
        parameters=detector["parameters"] / 1e6, steps=options["steps"], batch=options["batch"],
        tests=options["test_scenes"],
    )  # fmt: skip
    body += FACTS.format(
        ap=100 * detector["ap"][""], ap50=100 * detector["ap"]["_50"], ap75=100 * detector["ap"]["_75"],
        objects=detector["objects"], seconds=detector["cpu_seconds"], first=detector["losses"][0],
        last=detector["losses"][-1], shown=options["shown"], score=options["shown_score"],
    )  # fmt: skip
    tiles = [
        page.figure(folder / f"scene_{number}.png", "a test scene with boxes", caption(found))
        for number, found in enumerate(detector["found"][: options["shown"]])
    ]
    return body + page.grid(tiles, "medium") + NOTE


def caption(found: list[list[float]]) -> str:
    words = [f"{CLASSES[int(label)]} {100 * score:.0f} %" for *_, score, label in found]
    return ", ".join(words) or "nothing found"


def row(point: dict, mark: str) -> tuple[str, ...]:
    return (
        LABELS[point["mixers"]] + mark,
        f"{point['height']} x {point['width']}",
        duration(point["seconds"]),
        f"{point['megabytes']:.0f} MB",
    )


def headline(section: dict) -> list[tuple[str, str]]:
    """A box for the top of the page."""
    if not section["detector"]:
        return []
    return [
        (f"AP {100 * section['detector']['ap']['']:.0f}", "of a small all-linear RetinaNet on new scenes")
    ]
