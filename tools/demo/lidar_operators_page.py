"""What the LiDAR part says about time: operators measured here, whole backbones recorded."""

from __future__ import annotations

from html import escape
from pathlib import Path

from . import page, pictures
from .scaling_page import duration

LABELS = {
    "retnet": "RetNet", "mamba": "Mamba", "rwkv": "RWKV", "mlstm": "mLSTM", "ttt": "TTT",
    "linear": "linear attention (ours)", "gated": "gated linear attention (ours)",
    "scatterformer": "ScatterFormer's windows",
}  # fmt: skip
COLOURS = {
    "retnet": "rala", "mamba": "mala", "rwkv": "nala", "mlstm": "l2", "ttt": "inline", "linear": "lightnet",
    "gated": "softmax", "scatterformer": "scatterformer",
}  # fmt: skip
MARKERS = dict(zip(LABELS, "osD^v<>P", strict=True))
OPERATORS = """<h3>Operators against the number of voxels</h3><p>One block of each LION operator at
{channels} channels: forward, float32, batch 1, one CPU thread, median of {rounds}. Sequences are groups of
{group} voxels, and the last group is filled up, so {voxels} voxels are {tokens} tokens. ScatterFormer's
attention works in windows of {window} x {window} cells, each as long as it is full. The voxels are rough
ground with boxes on it, sorted beforehand; the weights are random.</p>"""
GROWTH = """<p>From {low} to {high} voxels, {ratio:.1f} times as many tokens, the time grows by {least:.1f}
({fastest}) to {most:.1f} ({slowest}).</p>"""
WHOLE = """<h3>Whole 3D backbones: recorded, not re-run</h3><p>Forward with the published widths and
groups (linear and gated: RetNet's), from voxel features to the last voxels, sorting and pair lists included;
one frame, one CPU thread, median of {rounds}.</p>"""
MADE = """<p class="soft">{made}, by <code>{command}</code>.</p>"""
ABSENT = """<p class="soft">No times of whole backbones are recorded.</p>"""


def page_of(section: dict, folder: Path) -> str:
    rows, options = section["operators"], section["settings"]
    body = operators_intro(rows, options)
    sizes = [f"{row['voxels']:,} voxels" for row in rows]
    lines = [
        [LABELS[name], *(duration(row["seconds"][name]) for row in rows), per_voxel(rows[-1], name)]
        for name in names_in(rows)
    ]
    body += page.table(("operator", *sizes, "at the largest"), lines) + growth(rows, options["group"])
    chart = page.figure(folder / "operators.png", "CPU time of one operator against the number of voxels")
    return body + page.grid([chart], "wide") + backbones(section["backbones"])


def operators_intro(rows: list[dict], options: dict) -> str:
    from ..bench_pointcloud import CHANNELS, WINDOW

    few, group = rows[0]["voxels"], options["group"]
    return OPERATORS.format(
        channels=CHANNELS, rounds=options["rounds"], group=f"{group:,}", window=WINDOW,
        voxels=f"{few:,}", tokens=f"{tokens_of(few, group):,}",
    )  # fmt: skip


def tokens_of(voxels: int, group: int) -> int:
    """Places of the groups that so many voxels fill."""
    return -(-voxels // group) * group


def per_voxel(row: dict, name: str) -> str:
    return f"{1e6 * row['seconds'][name] / row['voxels']:.1f} \N{MICRO SIGN}s a voxel"


def growth(rows: list[dict], group: int) -> str:
    """How time grows between the two largest sizes, over the operators that work in groups."""
    if len(rows) < 2:
        return ""
    low, high = rows[-2:]
    grown = {n: high["seconds"][n] / t for n, t in low["seconds"].items() if n != "scatterformer"}
    fastest, slowest = min(grown, key=grown.__getitem__), max(grown, key=grown.__getitem__)
    return GROWTH.format(
        low=f"{low['voxels']:,}", high=f"{high['voxels']:,}", least=grown[fastest], most=grown[slowest],
        ratio=tokens_of(high["voxels"], group) / tokens_of(low["voxels"], group),
        fastest=LABELS[fastest], slowest=LABELS[slowest],
    )  # fmt: skip


def names_in(rows: list[dict]) -> list[str]:
    return [name for name in LABELS if name in rows[0]["seconds"]]


def backbones(rows: list[dict]) -> str:
    if not rows:
        return ABSENT
    from ..bench_pointcloud import BACKBONES

    rows = sorted(rows, key=lambda row: row["voxels"])
    names = [name for name in BACKBONES if any(name in row["ms"] for row in rows)]
    lines = []
    for name in names:
        times = [row["ms"].get(name) for row in rows]
        lines.append([name, *("-" if t is None else duration(t["median"] / 1e3) for t in times)])
    head = ("backbone", *(f"{row['voxels']:,} voxels" for row in rows))
    made = dict.fromkeys(
        f"{r['date']}, {r['device']}, torch {r['torch']}, commit {r['commit']}" for r in rows
    )
    body = WHOLE.format(rounds=rows[0]["rounds"]) + page.table(head, lines)
    return body + MADE.format(made=escape("; ".join(made)), command=escape(rows[0]["command"]))


def draw(folder: Path, rows: list[dict]) -> None:
    """Time against voxels, both logarithmic, with a line that grows like the voxels."""
    voxels = [row["voxels"] for row in rows]
    names = names_in(rows)
    top = max(row["seconds"][name] for row in rows for name in names)
    fewest = min(rows[0]["seconds"].values())

    def curves(axes, colours) -> None:
        for name in names:
            seconds = [row["seconds"][name] for row in rows]
            marker, colour = MARKERS[name], colours[COLOURS[name]]
            axes.plot(voxels, seconds, marker=marker, color=colour, label=LABELS[name], lw=1.6, ms=5)
        guide = [0.5 * fewest * n / voxels[0] for n in voxels]
        axes.plot(voxels, guide, ":", color=colours["softmax"], label="grows like the voxels", lw=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(voxels, [f"{n:,}" for n in voxels])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(top=30 * top)
        axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)

    pictures.chart(folder / "operators.png", curves, "voxels", "CPU seconds, one thread", "One operator")
