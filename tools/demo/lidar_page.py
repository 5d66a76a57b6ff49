"""What the LiDAR part shows: the detector before and after, then times, then the recorded long runs."""

from __future__ import annotations

from html import escape
from pathlib import Path

from . import lidar_operators_page, lidar_recorded_page, page

INTRO = """<p>LION with RetNet's operator, a small form, learns to find cars, pedestrians and cyclists with
their headings in {what}. It starts from committed weights, {start} updates old, and makes {updates} updates
of {batch} frames here by <code>linzoo train</code>'s own code. Before and after, it is judged on {frames}
frames that no training has seen.</p>"""
DRAWN = """street scenes that are drawn: solid road users before a ray-cast LiDAR of 48 beams, each class
with a front and a back"""
KITTI = """the KITTI folder <code>{folder}</code>, which <code>LINZOO_KITTI</code> names"""
KITTI_NOTE = """<p>The small detector looks 25.6 m ahead, 12.8 m to each side, and from 2 m below the sensor
to 2 m above it; KITTI's sensor stands 1.73 m above the road. It is judged by KITTI's metric on the first
{frames} validation frames: labelled objects beyond that space count as missed, and so few frames give no
benchmark figure. The start has seen drawn scenes only.</p>"""
NOTE = """<p class="soft">AP in percent at 40 recall positions, overlap 0.7 for cars and 0.5 for the others.
Errors: mean over objects whose centre was found within 1 m with a score of 0.3 or more; yaw modulo a half
turn, where front and back are alike, and modulo a whole turn. {frames} scenes are few: a figure moves by
some percent with other scenes.</p>"""
SEEN = """<p>Unseen frames from above, after {updates} updates: boxes with a score of {score} or more,
a line from the centre to the front, labels dashed. {ahead}</p>"""
AHEAD = "The sensor stands on the left and looks to the right."
MISSING = """<p>No detector was trained. Not installed: {packages}
(<code>pip install "linzoo[diffusion,pointcloud]"</code>).</p>"""
LIMITS = """<p class="soft">What drawn scenes do not show: anything about real traffic. They have flat ground,
few shapes and no rain; a detector that reads them well has not met the world.</p>"""


def page_of(section: dict, folder: Path) -> str:
    body = detector_of(section, folder)
    body += lidar_operators_page.page_of(section, folder)
    body += lidar_recorded_page.page_of(section["recorded"], folder)
    return body + LIMITS


def draw(folder: Path, section: dict) -> None:
    lidar_operators_page.draw(folder, section["operators"])


def detector_of(section: dict, folder: Path) -> str:
    if section["missing"]:
        return MISSING.format(packages=", ".join(section["missing"]))
    from ..street_scenes.detectors import START_UPDATES
    from ..street_scenes.judge import SHOWN_SCORE

    options, found = section["settings"], section["detector"]
    before, after = found["before"], found["after"]
    frames, kitti = before["frames"], options["kitti"]
    what = KITTI.format(folder=escape(kitti)) if kitti else DRAWN
    counts = {"updates": after["updates"], "batch": options["batch"], "frames": frames}
    body = INTRO.format(what=what, start=START_UPDATES, **counts)
    body += KITTI_NOTE.format(frames=frames) if kitti else ""
    head, rows = (kitti_table if kitti else table)(before["metrics"], after["metrics"], after["updates"])
    body += page.table(head, rows)
    body += "" if kitti else NOTE.format(frames=frames)
    figures = [
        page.figure(folder / file, f"unseen frame {i} from above with boxes that were found")
        for i, file in enumerate(after["pictures"])
    ]
    body += SEEN.format(updates=after["updates"], score=SHOWN_SCORE, ahead=AHEAD)
    return body + page.grid(figures, "wide")


def table(before: dict, after: dict, updates: int) -> tuple[tuple[str, ...], list[list[str]]]:
    """A row a class and moment, with the drawn scenes' figures."""
    rows = []
    for name in (*classes_of(after), "mean"):
        for when, figures in ((", start", before), (f", {updates} updates", after)):
            rows.append([name + when, *(shown(figures, f"{name}_{key}", form) for key, form in COLUMNS)])
    return HEAD, rows


HEAD = ("class", "AP 3D", "AP BEV", "found", "centre error", "yaw, modulo 180\N{DEGREE SIGN}",
        "modulo 360\N{DEGREE SIGN}")  # fmt: skip
COLUMNS = (
    ("ap_3d", "{:.1f}"),
    ("ap_bev", "{:.1f}"),
    ("recall", "{:.0f} %"),
    ("centre_error", "{:.2f} m"),
    ("yaw_error_pi", "{:.1f}\N{DEGREE SIGN}"),
    ("yaw_error_2pi", "{:.1f}\N{DEGREE SIGN}"),
)


def kitti_table(before: dict, after: dict, updates: int) -> tuple[tuple[str, ...], list[list[str]]]:
    """KITTI's AP at 40 recall positions: a row a class and moment."""
    levels = ("easy", "moderate", "hard")
    columns = [f"{metric}_{level}" for metric in ("3d", "bev") for level in levels]
    names = dict.fromkeys(key.split("_")[0] for key in after if key.endswith("_3d_moderate"))
    rows = []
    for name in names:
        for when, figures in ((", start", before), (f", {updates} updates", after)):
            rows.append([name + when, *(shown(figures, f"{name}_{column}", "{:.1f}") for column in columns)])
    return ("class", *(f"AP {column.replace('_', ', ').upper()}" for column in columns)), rows


def classes_of(figures: dict) -> list[str]:
    """The classes that a data set's figures are of."""
    return [
        key.removesuffix("_ap_3d") for key in figures if key.endswith("_ap_3d") and not key.startswith("mean")
    ]


def shown(figures: dict, key: str, form: str) -> str:
    value = figures.get(key)
    return "-" if value is None else form.format(value)


def headline(section: dict) -> list[tuple[str, str]]:
    """A box for the top of the page; on KITTI none, where a few frames give no figure."""
    found = section["detector"]
    if found is None or section["settings"]["kitti"]:
        return []
    score = found["after"]["metrics"]["mean_ap_bev"]
    if score is None:
        return []
    return [(f"{score:.0f} %", "AP from above, LION-RetNet on unseen drawn LiDAR scenes")]
