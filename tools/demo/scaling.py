"""Part 2: a photograph through an all-linear and an all-softmax pyramid: time and memory against pixels."""

from __future__ import annotations

from pathlib import Path

from .context import Context, Progress
from .scaling_page import draw, page_of
from .worker import run_worker

NAME = "scaling"
TITLE = "Large pictures: time and memory against pixels"
KINDS = ("linear", "softmax")  # the mixer of all four stages


def settings(quick: bool) -> dict:
    return {
        "model": "nalaformer_xt" if quick else "ravlt_tiny",
        "sizes": [64, 128, 4096] if quick else [256, 512, 768, 1024, 2048, 2560],
        "limit_seconds": {"linear": 2, "softmax": 2} if quick else {"linear": 60, "softmax": 20},
        "memory_share": 0.6,  # of what the system says is free
    }


def run(context: Context) -> dict:
    series = {kind: measure_series(kind, context) for kind in KINDS}
    draw(context.folder, series)
    points = [point for kind in series.values() for point in kind["points"]]
    return {
        "series": series,
        "settings": context.settings,
        "largest": max(point["size"] for point in series["linear"]["points"]),
        "cpu_seconds": sum(point["process_seconds"] for point in points),
    }


def html(section: dict, folder: Path) -> str:
    return page_of(section, folder)


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
