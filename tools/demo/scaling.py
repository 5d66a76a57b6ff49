"""Part 2: a photograph through an all-linear and an all-softmax pyramid: time and memory against pixels."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from . import page, pictures
from .context import Context, Progress

NAME = "scaling"
TITLE = "Large pictures: time and memory against pixels"
KINDS = {"linear": "linear (RALA) in all four stages", "softmax": "softmax in all four stages"}
PATCH = 4  # pixels of a token's side in the first stage


def settings(quick: bool) -> dict:
    return {
        "model": "nalaformer_xt" if quick else "ravlt_tiny",
        "sizes": [64, 128, 4096] if quick else [256, 512, 768, 1024, 1536, 2048, 2560],
        "limit_seconds": {"linear": 2, "softmax": 2} if quick else {"linear": 60, "softmax": 20},
        "memory_share": 0.6,  # of what the system says is free
    }


def run(context: Context) -> dict:
    series = {kind: measure_series(kind, context) for kind in KINDS}
    draw_time(context.folder / "scaling_time.png", series)
    draw_memory(context.folder / "scaling_memory.png", series)
    draw_photo(context.folder / "scaling_photo.png")
    points = [point for kind in series.values() for point in kind["points"]]
    return {
        "series": series,
        "settings": context.settings,
        "largest": max(point["size"] for point in series["linear"]["points"]),
        "cpu_seconds": sum(point["process_seconds"] for point in points),
    }


def measure_series(kind: str, context: Context) -> dict:
    """Measure sizes in rising order, each in its own process, until the next would take too long or too much.

    Returns: ``points``, measured; ``extrapolated``, the other sizes with predicted seconds; ``stopped``, why.
    """
    sizes = sorted(context.settings["sizes"])
    points, stopped = [], ""
    bar = Progress(f"scaling, {kind}", len(sizes), unit="size")
    for size in sizes:
        point = context.store.get(f"{kind}-{size}")
        if point is None:
            stopped = why_not(kind, size, points, context.settings)
            if stopped:
                break
            request = {"model": context.settings["model"], "mixers": kind, "size": size}
            point = run_worker("linzoo.tools.demo.scaling_point", request)
            context.store.put(f"{kind}-{size}", point)
        points.append(point)
        bar.advance()
        bar.say(f"{size} px: {point['seconds']:.2f} s, {point['megabytes']:.0f} MB")
    left = [size for size in sizes if size > points[-1]["size"]]
    last = points[-1]
    bar.close(f"{last['size']} px takes {last['seconds']:.1f} s; {stopped or 'all sizes measured'}")
    extrapolated = [{"size": size, "seconds": predict_seconds(points, size)} for size in left]
    return {"points": points, "extrapolated": extrapolated, "stopped": stopped}


def why_not(kind: str, size: int, points: list[dict], settings: dict) -> str:
    """Why this size is not measured; empty when it is. The smallest size always is."""
    if not points:
        return ""
    limit = settings["limit_seconds"][kind]
    seconds = predict_seconds(points, size)
    if seconds >= limit:
        return f"{size} px would take about {seconds:.0f} s, over the demo's limit of {limit} s"
    free = free_memory()
    needed = points[-1]["megabytes"] * 1e6 * (size / points[-1]["size"]) ** 2
    if free is not None and needed > settings["memory_share"] * free:
        return f"{size} px would take about {needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB that are free"
    return ""


def predict_seconds(points: list[dict], size: int) -> float:
    """Seconds at ``size`` from t = a n + b n^2, n pixels, a and b >= 0, through the two largest points.

    One point alone is taken as quadratic: too long rather than too short.
    """
    n = size**2
    n2, t2 = points[-1]["size"] ** 2, points[-1]["seconds"]
    if len(points) == 1:
        return t2 * (n / n2) ** 2
    n1, t1 = points[-2]["size"] ** 2, points[-2]["seconds"]
    b = max((t2 / n2 - t1 / n1) / (n2 - n1), 0.0)
    a = max(t2 / n2 - b * n2, 0.0)
    return a * n + min(b, t2 / n2**2) * n**2


def free_memory() -> int | None:
    """Bytes that can be had without swapping, None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            line = next((line for line in file if line.startswith("MemAvailable:")), None)
    except OSError:
        return None
    return None if line is None else int(line.split()[1]) * 1024


def run_worker(module: str, request: dict) -> dict:
    """Run ``python -m module REQUEST`` and return the JSON of its last line; it ends when this process ends.

    Raises: RuntimeError with the worker's last words when it fails.
    """
    command = [sys.executable, "-m", module, json.dumps(request)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            lines = process.stdout.read().splitlines()  # its standard input stays open: it leaves when we do
        except BaseException:
            process.kill()
            raise
        status = process.wait()
    if status or not lines:
        last = lines[-1] if lines else "no output"
        raise RuntimeError(f"{module} {json.dumps(request)} ended with status {status}: {last}")
    return json.loads(lines[-1])


def draw_time(path: Path, series: dict) -> None:
    def draw(axes, colours) -> None:
        for kind, label in KINDS.items():
            colour = colours["rala" if kind == "linear" else "softmax"]
            points, guessed = series[kind]["points"], series[kind]["extrapolated"]
            axes.plot(
                *columns(points, "seconds"), "o-", color=colour, label=label.split(" in ")[0], lw=1.8, ms=5
            )
            if guessed:
                axes.plot(*columns([points[-1], *guessed], "seconds"), "--", color=colour, lw=1.4)
                axes.plot(
                    *columns(guessed, "seconds"), "o", color=colour, mfc="none", ms=5, label="  extrapolated"
                )
        pixel_axes(axes, series)

    pictures.chart(path, draw, "side of the picture, pixels", "CPU seconds, one thread", "Time of one pass")


def draw_memory(path: Path, series: dict) -> None:
    def draw(axes, colours) -> None:
        for kind, label in KINDS.items():
            colour = colours["rala" if kind == "linear" else "softmax"]
            style = "o-" if kind == "linear" else "s--"
            fill = "none" if kind == "softmax" else colour
            points = columns(series[kind]["points"], "megabytes")
            axes.plot(*points, style, color=colour, label=label.split(" in ")[0], lw=1.8, ms=5, mfc=fill)
        pixel_axes(axes, series)

    pictures.chart(
        path, draw, "side of the picture, pixels", "MB above the idle process", "Peak memory of one pass"
    )


def columns(points: list[dict], what: str) -> tuple[list, list]:
    return [point["size"] for point in points], [point[what] for point in points]


def pixel_axes(axes, series: dict) -> None:
    sizes = sorted({p["size"] for s in series.values() for p in s["points"] + s["extrapolated"]})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, fontsize=10, loc="upper left")


def draw_photo(path: Path) -> None:
    import numpy as np
    from PIL import Image

    from ..extras import need

    photo = Image.fromarray(need("skimage.data", "data").retina())
    pictures.picture(path, np.asarray(photo.resize((360, 360), Image.Resampling.LANCZOS)))


def html(section: dict, folder: Path) -> str:
    series, settings = section["series"], section["settings"]
    linear, softmax = (series[kind]["points"] for kind in ("linear", "softmax"))
    size = section["largest"]
    tokens = (size // PATCH) ** 2
    intro = (
        f"<p>The same photograph goes through <code>{settings['model']}</code> with linear attention in "
        "all four "
        "stages and through its twin with softmax in all four, at growing sizes: batch 1, one CPU thread, "
        "float32, "
        "every size in a process of its own. The weights are untrained; neither time nor memory depends on "
        "them. "
        "Beyond 1,411 pixels the photograph is enlarged.</p>"
    )
    rows = [row(entry["size"], series) for entry in linear + series["linear"]["extrapolated"]]
    table = page.table(("side", "tokens", "linear", "softmax", "ratio", "linear MB", "softmax MB"), rows)
    slope = exponent(linear)
    words = [f"From the two largest sizes, linear time grows with the pixels to the power {slope:.2f}"]
    if len(softmax) > 1:
        words.append(f", softmax time to the power {exponent(softmax):.2f}")
    words.append(". Times marked ~ and dashed lines are extrapolated from t = a n + b n², not measured")
    words.append(f" ({softmax_stop(series)})." if series["softmax"]["stopped"] else ".")
    reading = f"<p>{''.join(words)}</p>"
    note = (
        '<p class="soft">On a CPU softmax is limited by time, not by memory: torch computes it in blocks '
        "and never "
        f"holds the matrix of all pairs, so both curves of memory are straight. Held as a matrix, the "
        "weights of one "
        f"head of the first stage at {size} pixels ({tokens:,} tokens) would take "
        f"{4 * tokens**2 / 1e9:,.0f} GB.</p>"
    )
    charts = [
        page.figure(folder / "scaling_time.png", "CPU time of one pass against the side of the picture"),
        page.figure(folder / "scaling_memory.png", "peak memory of one pass against the side of the picture"),
    ]
    photo = page.figure(
        folder / "scaling_photo.png", "photograph of a retina", "The photograph: a retina (CC0)."
    )
    return intro + page.grid(charts, "wide") + reading + table + note + page.grid([photo], "small")


def softmax_stop(series: dict) -> str:
    return "softmax at " + series["softmax"]["stopped"]


def row(size: int, series: dict) -> list[str]:
    cells, seconds = [], {}
    for kind in ("linear", "softmax"):
        found = {p["size"]: p for p in series[kind]["points"]}
        guessed = {p["size"]: p for p in series[kind]["extrapolated"]}
        point = found.get(size) or guessed[size]
        seconds[kind] = point["seconds"]
        cells.append(f"{'' if size in found else '~ '}{duration(point['seconds'])}")
    known = all(size in {p["size"] for p in series[kind]["points"]} for kind in series)
    ratio = f"{'' if known else '~ '}{seconds['softmax'] / seconds['linear']:.1f} x"
    memory = []
    for kind in ("linear", "softmax"):
        found = {p["size"]: p["megabytes"] for p in series[kind]["points"]}
        memory.append(f"{found[size]:,.0f}" if size in found else "not run")
    return [f"{size} px", f"{(size // PATCH) ** 2:,}", *cells, ratio, *memory]


def duration(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds < 10
        else f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
    )


def exponent(points: list[dict]) -> float:
    """Slope of log seconds against log pixels between the two largest points."""
    one, two = points[-2:]
    return math.log(two["seconds"] / one["seconds"]) / math.log((two["size"] / one["size"]) ** 2)


def headline(section: dict) -> list[tuple[str, str]]:
    """Boxes for the top of the page."""
    series = section["series"]
    linear = series["linear"]["points"][-1]
    boxes = [(duration(linear["seconds"]), f"linear, {linear['size']} px, one CPU thread")]
    slow = {p["size"]: p["seconds"] for p in series["softmax"]["points"] + series["softmax"]["extrapolated"]}
    if linear["size"] in slow:
        known = linear["size"] == series["softmax"]["points"][-1]["size"]
        boxes.append((f"{'' if known else '~ '}{duration(slow[linear['size']])}",
                      "its softmax twin" + ("" if known else ", extrapolated")))  # fmt: skip
    return boxes
