"""Part 3: what a mixer attends to: the weights of one query token on every token of a photograph."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import digits, page, pictures
from .context import Context, one_thread

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

NAME = "attention"
TITLE = "Attention: what one token looks at"
TILE = 288  # pixels of a map's side on the page


def settings(quick: bool) -> dict:
    return {
        "digits": digits.settings(quick),  # its weights are the ones looked into
        "side": 384,
        "stage": 1,
        "queries": {
            "the eye": [0.37, 0.24],
            "the cheek": [0.62, 0.88],
        },  # row and column, share of side
    }


def run(context: Context) -> dict:
    began = time.process_time()
    photo = photograph(context.settings["side"])
    from .rows import ROWS

    mixers = [m for m in context.settings["digits"]["mixers"] if m in ROWS and m != "softmax"]
    with one_thread():
        maps = {mixer: weight_maps(mixer, photo, context) for mixer in ("softmax", *mixers)}
    queries = []
    for index, (label, place) in enumerate(context.settings["queries"].items()):
        draw_query(context.folder / f"query_{index}.png", photo, place)
        cells = []
        for mixer, by_query in maps.items():
            name = f"{mixer}_{index}.png"
            draw_map(context.folder / name, by_query[label])
            cells.append({"mixer": mixer, "picture": name} | facts_of(by_query[label]))
        queries.append({"label": label, "picture": f"query_{index}.png", "cells": cells})
    tokens = maps["softmax"][label].shape[0]
    return {
        "queries": queries,
        "tokens": tokens,
        "settings": context.settings,
        "cpu_seconds": time.process_time() - began,
    }


def photograph(side: int) -> np.ndarray:
    """The face of scikit-image's cat (CC0), grey, (side, side) in [0, 1]."""
    import numpy as np
    from PIL import Image

    from ..extras import need

    face = Image.fromarray(need("skimage.data", "data").chelsea()).convert("L").crop((100, 0, 400, 300))
    return np.asarray(face.resize((side, side), Image.Resampling.BICUBIC)) / 255.0


def weight_maps(mixer: str, photo: np.ndarray, context: Context) -> dict[str, np.ndarray]:
    """Query label -> (height, width) weights, the mean over the heads, in the first block of the chosen "
    "stage."""
    import torch

    from .digits_training import build
    from .rows import effective_row

    model = build(mixer, context.settings["digits"]).eval()
    checkpoint = torch.load(context.state / digits.NAME / f"{mixer}.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    image = torch.from_numpy((photo - photo.mean()) / photo.std()).float()[None, None]
    attend = model.stages[context.settings["stage"]].blocks[0].attn
    with torch.inference_mode():
        x, rope = inputs_of(attend, model, image)
        height, width = x.shape[1:3]
        maps = {}
        for label, (row, column) in context.settings["queries"].items():
            token = int(row * height) * width + int(column * width)
            weights = effective_row(mixer, attend, x, rope, token)
            maps[label] = weights.mean(0).view(height, width).numpy()
    return maps


def inputs_of(mixer: nn.Module, model: nn.Module, image: Tensor) -> list:
    """What ``mixer``, a part of ``model``, is given for ``image``: its tokens and its rotary tables."""
    seen: list = []
    hook = mixer.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    model(image)
    hook.remove()
    return seen


def facts_of(weights: np.ndarray) -> dict:
    """Sum of the weights, the part of their absolute sum that is negative, and the tokens that hold half "
    "of it."""
    import numpy as np

    size = np.sort(abs(weights).ravel())[::-1]
    half = int(np.searchsorted(size.cumsum(), size.sum() / 2)) + 1
    negative = -weights[weights < 0].sum() / size.sum()
    return {"sum": float(weights.sum()), "negative": float(negative), "half": half / size.size}


def draw_map(path: Path, weights: np.ndarray) -> None:
    import numpy as np

    limit = float(np.quantile(abs(weights), 0.998))
    pictures.picture(path, pictures.heat(weights, limit, TILE))


def draw_query(path: Path, photo: np.ndarray, place: list[float]) -> None:
    import numpy as np
    from PIL import Image

    grey = Image.fromarray((255 * photo).round().astype("uint8")).resize((TILE, TILE))
    marked = pictures.mark(np.asarray(grey), place[0] * TILE, place[1] * TILE, radius=11)
    pictures.picture(path, marked)


INTRO = """<p>Linear attention never writes its weights down, yet has them: the numbers by which the values
of all tokens enter the output of one. Worked out from each paper's formula (rotary turn, key weights and
normaliser included), they are drawn here for one query token, the ringed one: red positive, blue negative,
white zero. Each map has its own scale and is the mean over the heads.</p>
<p><b>Which weights:</b> those of the small pyramids trained above, which have seen nothing but digits of
at most 64 tokens. The photograph has {side} pixels a side, {tokens} x {tokens} tokens in stage {stage}.
The maps show how each formula spreads its weights, not what a model trained on photographs would look
at.</p>"""
NOTE = """<p class="soft">Softmax weights are positive and sum to 1. RALA and NaLa divide by a sum without
the rotary turn, so theirs need not. MALA subtracts a share of the mean, so that its weights go below zero.
L2ViT's are positive and sum to a learned temperature at most. InLine's sum to 1 and may be negative.
LightNet's are a softmax over the tokens for each channel, turned, and have no sum of their own: a norm
follows. Photograph: chelsea, scikit-image (CC0).</p>"""


def html(section: dict, folder: Path) -> str:
    options = section["settings"]
    body = INTRO.format(side=options["side"], tokens=section["tokens"], stage=options["stage"] + 1)
    for query in section["queries"]:
        photo = page.figure(
            folder / query["picture"], f"the photograph, ring on {query['label']}", "the photograph"
        )
        tiles = [
            page.figure(folder / cell["picture"], f"weights of {cell['mixer']}", caption(cell))
            for cell in query["cells"]
        ]
        body += f"<h3>Query: {query['label']}</h3>" + page.grid([photo, *tiles], "medium")
    return body + NOTE


def caption(cell: dict) -> str:
    negative = (
        f", {100 * cell['negative']:.0f} % of the magnitude negative" if cell["negative"] > 0.005 else ""
    )
    half = f"half the weight on {100 * cell['half']:.0f} % of the tokens"
    return f"<b>{digits.label(cell['mixer'])}</b><br>sum {cell['sum']:.2f}{negative}; {half}"
