"""Part: one step of real-width models, softmax against linear attention, and the plan for 16,384 pixels."""

from __future__ import annotations

import time
from pathlib import Path

from ..bench_diffusion import read
from .context import Context
from .diffusion_scaling_page import draw, page_of
from .worker import kept_point

NAME = "diffusion_scaling"
TITLE = "Diffusion: large pictures"


def settings(quick: bool) -> dict:
    return {
        # model, attention, pixels of a side; larger ones have been recorded
        "points": [["small", "linfusion", 64], ["small", "softmax", 64]]
        if quick
        else [
            *(["sd15", attention, size] for attention in ("linfusion", "softmax") for size in (512, 1024)),
            *(["flux_pair", attention, 1024] for attention in ("clear", "softmax")),
        ],
        "plan": {"name": "sd15", "size": 512} if quick else {"name": "sdxl", "size": 16384},
    }


def run(context: Context) -> dict:
    options = context.settings
    points = [measured(*point, context) for point in options["points"]]
    plans = context.store.get("plans")
    if plans is None:
        plans = planned(**options["plan"])
        context.store.put("plans", plans)
    section = {"points": points, "recorded": read(), "plans": plans, "settings": options}
    draw(context.folder, section)
    seconds = sum(point["process_seconds"] for point in points) + plans["cpu_seconds"]
    return section | {"cpu_seconds": seconds}


def html(section: dict, folder: Path) -> str:
    return page_of(section, folder)


def measured(model: str, attention: str, size: int, context: Context) -> dict:
    """One step in a process of its own, or what an earlier run has measured."""
    key = f"{model}-{attention}-{size}"
    label = f"diffusion, {model} with {attention}, {size} px"
    request = {"model": model, "attention": attention, "size": size}
    return kept_point(context, key, label, "step", "linzoo.tools.demo.diffusion_scaling_point", request)


def planned(name: str, size: int) -> dict:
    """The tables of two plans without a limit, every measure off and on, for a GPU, bfloat16."""
    from linzoo.diffusion.memory import MEASURES, blank, plan

    began = time.process_time()
    models = blank(name, method="linfusion")
    made = [
        plan(models, size, size, memory=None, device="cuda", measures=measures) for measures in ((), MEASURES)
    ]
    return {
        "tables": [str(one) for one in made],
        "peaks": [one.peak for one in made],
        "cpu_seconds": time.process_time() - began,
    }
