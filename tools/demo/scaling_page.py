"""What part 2 shows: the two curves, the table, and what the page says about them."""

import math
from pathlib import Path

from . import page, pictures

PATCH = 4  # pixels of a token's side in the first stage
COLOUR_OF = {"linear": "rala", "softmax": "softmax"}


def draw(folder: Path, series: dict) -> None:
    draw_time(folder / "scaling_time.png", series)
    draw_memory(folder / "scaling_memory.png", series)
    draw_photo(folder / "scaling_photo.png")


def draw_time(path: Path, series: dict) -> None:
    def draw(axes, colours) -> None:
        for kind, found in series.items():
            colour = colours[COLOUR_OF[kind]]
            measured, guessed = found["points"], found["extrapolated"]
            axes.plot(*columns(measured, "seconds"), "o-", color=colour, label=kind, lw=1.8, ms=5)
            if guessed:
                axes.plot(*columns([measured[-1], *guessed], "seconds"), "--", color=colour, lw=1.4)
                label = f"{kind}, extrapolated"
                axes.plot(*columns(guessed, "seconds"), "o", color=colour, mfc="none", ms=5, label=label)
        pixel_axes(axes, sizes_of(series))

    pictures.chart(path, draw, "side of the picture, pixels", "CPU seconds, one thread", "Time of one pass")


def draw_memory(path: Path, series: dict) -> None:
    def draw(axes, colours) -> None:
        for kind, found in series.items():
            colour = colours[COLOUR_OF[kind]]
            style, fill = (
                ("o-", colour) if kind == "linear" else ("s--", "none")
            )  # the curves lie on each other
            axes.plot(
                *columns(found["points"], "megabytes"),
                style,
                color=colour,
                label=kind,
                mfc=fill,
                lw=1.8,
                ms=5,
            )
        pixel_axes(axes, sizes_of(series))

    pictures.chart(
        path, draw, "side of the picture, pixels", "MB above the idle process", "Peak memory of one pass"
    )


def columns(points: list[dict], what: str) -> tuple[list, list]:
    return [point["size"] for point in points], [point[what] for point in points]


def sizes_of(series: dict) -> list[int]:
    return sorted({p["size"] for s in series.values() for p in s["points"] + s["extrapolated"]})


def pixel_axes(axes, sizes: list[int]) -> None:
    """Both logarithmic; the sides of the pictures are marked."""
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


INTRO = """<p>The same photograph goes through <code>{model}</code> with linear attention in all four
stages, and through its twin with softmax in all four: batch 1, one CPU thread, float32, every size in a
process of its own. The weights are untrained; neither time nor memory depends on them. Beyond 1,411 pixels
the photograph is enlarged.</p>"""
READING = """<p>Over the measured sizes from {start} pixels on, linear time grows with the number of pixels
to the power {linear:.2f}, softmax time to the power {softmax:.2f}.</p>"""
STOPPED = """<p class="soft">~ and dashed: not measured, extrapolated from t = a n + b n&sup2;, n pixels
({why}).</p>"""
MEMORY = """<p class="soft">The largest linear pass, {size} pixels, took {peak:.1f} GB above the idle
process. On a CPU softmax is limited by time, not by memory: torch works through it in blocks and never
holds the weights of all pairs of tokens, so its memory grows with the tokens too. Held as a matrix, the
weights of one head of the first stage at that size ({tokens:,} tokens) would take {matrix:,.0f} GB.</p>"""


def page_of(section: dict, folder: Path) -> str:
    series, size = section["series"], section["largest"]
    linear, softmax = (series[kind]["points"] for kind in ("linear", "softmax"))
    tokens = (size // PATCH) ** 2
    charts = [
        page.figure(folder / "scaling_time.png", "CPU time of one pass against the side of the picture"),
        page.figure(folder / "scaling_memory.png", "peak memory of one pass against the side of the picture"),
    ]
    body = INTRO.format(model=section["settings"]["model"]) + page.grid(charts, "wide")
    if len(linear) > 1 and len(softmax) > 1:
        start, slopes = straight_part(linear), [exponent(points) for points in (linear, softmax)]
        body += READING.format(start=start, linear=slopes[0], softmax=slopes[1])
    rows = [row(point["size"], series) for point in linear + series["linear"]["extrapolated"]]
    body += page.table(("side", "tokens", "linear", "softmax", "ratio"), rows)
    stops = [f"{kind}: {found['stopped']}" for kind, found in series.items() if found["stopped"]]
    body += STOPPED.format(why="; ".join(stops)) if stops else ""
    body += MEMORY.format(
        size=size, peak=linear[-1]["megabytes"] / 1e3, tokens=tokens, matrix=4 * tokens**2 / 1e9
    )
    photo = page.figure(
        folder / "scaling_photo.png", "photograph of a retina", "The photograph, a retina (CC0)"
    )
    return body + page.grid([photo], "small")


def row(size: int, series: dict) -> list[str]:
    cells, seconds, known = [], {}, True
    for kind, found in series.items():
        measured = {p["size"]: p["seconds"] for p in found["points"]}
        guessed = {p["size"]: p["seconds"] for p in found["extrapolated"]}
        seconds[kind] = measured.get(size) or guessed[size]
        known &= size in measured
        cells.append(("" if size in measured else "~ ") + duration(seconds[kind]))
    ratio = f"{'' if known else '~ '}{seconds['softmax'] / seconds['linear']:.1f}x"
    return [f"{size} px", f"{(size // PATCH) ** 2:,}", *cells, ratio]


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5940 else f"{seconds / 3600:.2g} h"


def straight_part(points: list[dict]) -> int:
    """The size from which the exponent is taken: below 512 pixels fixed costs weigh in."""
    sizes = [point["size"] for point in points]
    return 512 if sum(size >= 512 for size in sizes) > 1 else sizes[0]


def exponent(points: list[dict]) -> float:
    """Least-squares slope of log seconds against log pixels."""
    used = [point for point in points if point["size"] >= straight_part(points)]
    x = [2 * math.log(point["size"]) for point in used]
    y = [math.log(point["seconds"]) for point in used]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def headline(section: dict) -> list[tuple[str, str]]:
    """Boxes for the top of the page: the largest linear pass, and what softmax would take or took there."""
    series, model = section["series"], section["settings"]["model"]
    size = section["largest"]
    seconds = {}
    for kind, found in series.items():
        seconds[kind] = next((p["seconds"] for p in found["points"] if p["size"] == size), None)
    boxes = [(duration(seconds["linear"]), f"{model}, all-linear, {size} px, one CPU thread")]
    if seconds["softmax"] is not None:
        return [*boxes, (duration(seconds["softmax"]), "the same with softmax")]
    guess = next((p["seconds"] for p in series["softmax"]["extrapolated"] if p["size"] == size), None)
    return (
        boxes if guess is None else [*boxes, (f"~ {duration(guess)}", "the same with softmax, extrapolated")]
    )
