"""What the part shows: time and memory of one step against pixels, and the plans."""

from __future__ import annotations

from html import escape
from pathlib import Path

from . import page, pictures
from .scaling import predict_seconds
from .scaling_page import columns, duration, pixel_axes

COLOURS = {"softmax": "softmax", "linfusion": "rala", "clear": "mala"}  # whose colour
LABELS = {"softmax": "softmax", "linfusion": "LinFusion", "clear": "CLEAR, radius 8"}
MODELS = {
    "sd15": "Stable Diffusion 1.5's UNet",
    "flux_pair": "one joint and one single block of FLUX",
    "small": "a small UNet",
}
INTRO = """<p>One denoising step for one picture, without guidance: float32, batch 1, one CPU thread, random
weights of the real widths (neither time nor memory depends on their values), every point in a process of its
own. Memory is the high-water mark of the process less what the loaded model takes.</p>"""
READING = """<p>At {size} pixels softmax takes {softmax} and LinFusion {linear}: {ratio:.1f} to 1.</p>"""
PREDICTED = """<p>The memory plan, which knows shapes only, was off by {worst:.1f} % at most in the {count}
points that carry its prediction.</p>"""
MARKS = """<p class="soft">Rows marked * and open marks are recorded, not re-run: {made}. ~ and dashed: not
run, scaled from t = a n + b n&sup2;, n pixels, through the two largest of the series. On a CPU torch's
softmax holds no matrix of weights: it is limited by time, not by memory.</p>"""
PLANS = """<h3>{size:,} x {size:,} pixels: planned, not run</h3><p>What {name} with LinFusion would hold on a
GPU in bfloat16, found by running its code on shapes alone; above with nothing done about it, below with every
measure of <code>linzoo.diffusion.memory</code>. Not counted: what CUDA's convolutions take for
themselves.</p>"""
NAMES = {"sdxl": "SD-XL", "sd15": "SD-1.5"}


def series_of(section: dict) -> dict[str, dict[str, list[dict]]]:
    """model -> attention -> points by size; recorded ones that were measured here too are left out."""
    here = {(p["model"], p["attention"], p["size"]) for p in section["points"]}
    rows = [p | {"recorded": False} for p in section["points"]]
    if any(p["model"] == "sd15" for p in section["points"]) or not section["points"]:
        recorded = [r for r in section["recorded"] if (r["model"], r["attention"], r["size"]) not in here]
        rows += [r | {"recorded": True} for r in recorded]
    found: dict[str, dict[str, list[dict]]] = {}
    for row in sorted(rows, key=lambda r: r["size"]):
        found.setdefault(row["model"], {}).setdefault(row["attention"], []).append(row)
    return found


def scaled(points: list[dict], sizes: list[int]) -> list[dict]:
    """Not run: the sizes beyond the last point."""
    beyond = [size for size in sizes if size > points[-1]["size"]]
    return [{"size": size, "seconds": predict_seconds(points, size)} for size in beyond]


def draw(folder: Path, section: dict) -> None:
    for model, series in series_of(section).items():
        if len(sizes_of(series)) < 2:  # a table says it
            continue
        for what, label, title in (
            ("seconds", "CPU seconds, one thread", "Time of one step"),
            ("megabytes", "MB above the loaded model", "Peak memory of one step"),
        ):
            draw_curves(folder / f"{model}_{what}.png", series, what, label, title)


def sizes_of(series: dict[str, list[dict]]) -> list[int]:
    return sorted({p["size"] for points in series.values() for p in points})


def draw_curves(path: Path, series: dict[str, list[dict]], what: str, label: str, title: str) -> None:
    from matplotlib.ticker import LogLocator

    sizes = sizes_of(series)

    def draw(axes, colours) -> None:
        for attention, points in sorted(series.items(), key=lambda one: list(LABELS).index(one[0])):
            colour = colours[COLOURS[attention]]
            marker, side = ("s", 9) if attention == "softmax" else ("o", 5.5)  # where both lie, both are seen
            axes.plot(*columns(points, what), "-", color=colour, label=LABELS[attention], lw=1.8)
            for recorded in (False, True):
                some = [p for p in points if p["recorded"] is recorded]
                fill = "none" if recorded else colour
                axes.plot(*columns(some, what), marker, color=colour, mfc=fill, ms=side)
            guessed = scaled(points, sizes) if what == "seconds" else []
            if guessed:
                axes.plot(*columns([points[-1], *guessed], what), "--", color=colour, lw=1.4)
        pixel_axes(axes, sizes)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))

    pictures.chart(path, draw, "side of the picture, pixels", label, title)


def page_of(section: dict, folder: Path) -> str:
    body = INTRO
    for model, series in series_of(section).items():
        body += f"<h3>{escape(MODELS[model][0].upper() + MODELS[model][1:])}</h3>"
        charts = [
            page.figure(folder / f"{model}_{what}.png", f"{alt} of one step against the side of the picture")
            for what, alt in (("seconds", "CPU time"), ("megabytes", "peak memory"))
            if len(sizes_of(series)) > 1
        ]
        body += (page.grid(charts, "wide") if charts else "") + table(series)
    body += reading(section) + predicted(section)
    made = dict.fromkeys(
        f"{r['date']}, {r['device']}, load average {r['load']:g} while it ran, commit {r['commit']}"
        for r in section["recorded"]
    )
    body += MARKS.format(made=escape("; ".join(made)) or "none")
    asked = section["settings"]["plan"]
    body += PLANS.format(size=asked["size"], name=NAMES[asked["name"]])
    return body + "".join(
        f'<div class="scroll"><pre>{escape(text)}</pre></div>' for text in section["plans"]["tables"]
    )


def table(series: dict[str, list[dict]]) -> str:
    """Time and memory by size, and the ratio of times where there are two attentions."""
    attentions = sorted(series, key=list(LABELS).index)
    sizes = sizes_of(series)
    words = [LABELS[a] for a in attentions]
    head = ["side", *words, "ratio", *(f"{word}, memory" for word in words)]
    rows = []
    for size in sizes:
        times, memory, seconds = [], [], {}
        for attention in attentions:
            points = series[attention]
            point = next((p for p in points + scaled(points, sizes) if p["size"] == size), None)
            mark = "" if point is None else "~ " if "megabytes" not in point else ""
            star = " *" if point and point.get("recorded") else ""
            times.append("-" if point is None else f"{mark}{duration(point['seconds'])}{star}")
            memory.append(memory_of(point))
            seconds[attention] = None if point is None else point["seconds"]
        guessed = any(time.startswith("~") for time in times)
        rows.append([f"{size} px", *times, ("~ " if guessed else "") + ratio(seconds), *memory])
    return page.table(head, rows)


def memory_of(point: dict | None) -> str:
    """The peak, and the measures of the memory plan that were on."""
    if point is None or "megabytes" not in point:
        return "-"
    return ", ".join([f"{point['megabytes']:,.0f} MB", *point.get("measures", ())])


def ratio(seconds: dict[str, float | None]) -> str:
    linear = next((value for name, value in seconds.items() if name != "softmax"), None)
    softmax = seconds.get("softmax")
    return f"{softmax / linear:.1f}x" if softmax and linear else "-"


def largest_pair(section: dict) -> tuple[dict, dict] | None:
    """Softmax and LinFusion at the largest size that both have been run at, on SD-1.5's UNet."""
    series = series_of(section).get("sd15", {})
    softmax, linear = ({p["size"]: p for p in series.get(a, [])} for a in ("softmax", "linfusion"))
    both = softmax.keys() & linear.keys()
    return (softmax[max(both)], linear[max(both)]) if both else None


def reading(section: dict) -> str:
    pair = largest_pair(section)
    if pair is None:
        return ""
    softmax, linear = pair
    times = [duration(point["seconds"]) for point in pair]
    return READING.format(
        size=softmax["size"], softmax=times[0], linear=times[1], ratio=softmax["seconds"] / linear["seconds"]
    )


def predicted(section: dict) -> str:
    """How far the plan's peaks are from the measured ones. The small UNet's are mostly Python's own."""
    rows = [
        point
        for model, series in series_of(section).items()
        for points in series.values()
        for point in points
        if "predicted" in point and model != "small"
    ]
    if not rows:
        return ""
    worst = max(abs(row["predicted"] / row["megabytes"] - 1) for row in rows)
    return PREDICTED.format(worst=100 * worst, count=len(rows))


def headline(section: dict) -> list[tuple[str, str]]:
    """A box for the top of the page."""
    pair = largest_pair(section)
    if pair is None:
        return []
    ratio = pair[0]["seconds"] / pair[1]["seconds"]
    when = ", recorded" if any(point["recorded"] for point in pair) else ""
    return [(f"{ratio:.1f}x", f"time of softmax over LinFusion, SD-1.5's UNet at {pair[0]['size']} px{when}")]
