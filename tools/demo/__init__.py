"""``linzoo demo``: the main job on real pictures, and the page that shows what came out.

A part is a module with ``NAME``, ``TITLE``, ``settings(quick) -> dict``, ``run(context) -> section`` (JSON
values, with ``cpu_seconds``) and ``html(section, folder) -> str``; its pictures lie in OUTPUT/NAME. What it
has finished is kept under OUTPUT/state: a run that was stopped, at any moment and in any way, goes on there.
"""

import argparse
import importlib
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

PARTS = ("digits", "scaling", "attention", "detection", "diffusion", "diffusion_scaling", "lidar")
MARK = ".linzoo-demo"  # in a folder that a run has made its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="default runs/demo"
    )
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run has reached")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
        help=f"work on these parts; the page shows what is finished of the others ({', '.join(PARTS)})",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to try that it runs")


def run(args: argparse.Namespace) -> int:
    from ..extras import need
    from .store import only_one

    for module in ("sklearn", "skimage", "matplotlib"):  # now, not after minutes of work
        need(module, "data")
    for name in PARTS:  # and so is what a part cannot serve
        part_of(name).settings(args.quick)
    output: Path = args.output
    claim(output)
    with only_one(output):
        if args.restart:
            shutil.rmtree(output / "state", ignore_errors=True)
        sections = {}
        for name in PARTS:
            section = run_part(name, output, args.quick, only_kept=name not in args.only)
            if section is not None:
                sections[name] = section
                write_results(output, sections, args.quick)
    print(f"linzoo demo: {output / 'index.html'}")
    return 0


def claim(output: Path) -> None:
    """Make ``output`` ours; a part clears its own folder there, so one that holds anything else is refused.

    Raises: ValueError.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output must be a folder, {output} is a file")
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).exists():
        raise ValueError(
            f"--output must be a new, empty or earlier run's folder, {output.resolve()} holds other files"
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).touch()


def part_of(name: str) -> ModuleType:
    """The module of a part."""
    return importlib.import_module(f".{name}", __package__)


def run_part(name: str, output: Path, quick: bool, only_kept: bool = False) -> dict | None:
    """The part's section: kept from an earlier run with the same settings, or, unless ``only_kept``, worked
    out now.
    """
    from .context import Context
    from .machine import commit, processor, versions
    from .store import PartStore

    part = part_of(name)
    settings = part.settings(quick)
    store = PartStore(output / "state" / name, settings | {"made_with": versions()})
    section = store.get("section")
    if section is not None and all((output / name / file).exists() for file in section["files"]):
        return section
    if only_kept:
        return None
    print(f"linzoo demo: {part.TITLE}", file=sys.stderr, flush=True)
    folder = output / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    section = part.run(Context(folder=folder, settings=settings, store=store, state=output / "state"))
    section["files"] = sorted(file.name for file in folder.iterdir())
    section["made"] = {
        "processor": processor(),
        "commit": commit(),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    store.put("section", section)
    return section


def write_results(output: Path, sections: dict[str, dict], quick: bool) -> None:
    """``results.json`` and ``index.html`` of the parts that are done."""
    from ..files import write_atomic, write_json
    from . import page
    from .machine import versions

    write_json(output / "results.json", {"versions": versions(), "quick": quick, "parts": sections})
    done = {name: part_of(name) for name in sections}
    bodies = [(part.TITLE, part.html(sections[name], output / name)) for name, part in done.items()]
    missing = [name for name in PARTS if name not in sections]
    lead = lead_of(sections, quick)
    if missing:
        lead += (
            f"<p><b>Not finished:</b> {', '.join(missing)}. Run <code>linzoo demo</code> again to go on.</p>"
        )
    document = page.page("linzoo: linear attention on real pictures", lead, bodies, footer_of(sections))
    write_atomic(output / "index.html", document.encode())


LEAD = """<p>Vision, diffusion and LiDAR backbones whose token mixing costs O(N) instead of O(N&sup2;),
trained, timed and looked into on this machine: real pictures from scikit-learn and scikit-image, drawn LiDAR
scenes, no download, no GPU.</p>"""
QUICK = """<p><b>A quick run:</b> a few steps of everything, to try that it works. The figures mean
nothing.</p>"""
FOOTER = """{made}. Photographs: scikit-image (CC0; the astronaut is public domain,
NASA); digits: scikit-learn. All figures:
<code>results.json</code> beside this page. From the beginning again: <code>linzoo demo --restart</code>."""


def lead_of(sections: dict[str, dict], quick: bool) -> str:
    from . import detection_page, diffusion_scaling_page, lidar_page, page, scaling_page

    boxes = []
    if "digits" in sections:
        shares = [100 * row["accuracy"] for row in sections["digits"]["rows"]]
        low, high = f"{min(shares):.1f}", f"{max(shares):.1f} %"
        box = high if min(shares) == max(shares) else f"{low} - {high}"
        boxes.append((box, f"of held-out digits right, {len(shares)} mixers"))
    if "scaling" in sections:
        boxes += scaling_page.headline(sections["scaling"])
    if "detection" in sections:
        boxes += detection_page.headline(sections["detection"])
    if "diffusion_scaling" in sections:
        boxes += diffusion_scaling_page.headline(sections["diffusion_scaling"])
    if "lidar" in sections:
        boxes += lidar_page.headline(sections["lidar"])
    boxes.append(
        (f"{sum(s['cpu_seconds'] for s in sections.values()):.0f} s", "CPU time of training and measuring")
    )
    return LEAD + (QUICK if quick else "") + page.facts(boxes)


def footer_of(sections: dict[str, dict]) -> str:
    from html import escape

    from .machine import versions

    made = [section["made"] for section in sections.values()]
    words = [f"Made {made[-1]['time']} on {made[-1]['processor']}"]
    words.append(", ".join(f"{package} {number}" for package, number in versions().items()))
    commits = dict.fromkeys(one["commit"] for one in made if one["commit"])
    words += [f"commit {', '.join(commits)}"] if commits else []
    return FOOTER.format(made=escape("; ".join(words)))
