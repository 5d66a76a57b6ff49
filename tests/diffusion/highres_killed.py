"""Runs of ``test_highres_store.py``, and the child that starts each in a process that kills itself, hard.

python -c "from diffusion.highres_killed import main; main(FOLDER)"        with tests/ on the path
"""

import os
import signal
from pathlib import Path

import torch

from .pipelines import build

PROMPT = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
# kind of run, number of the rung after which, or within which, the process dies
CASES = [("flux", 0, "after"), ("flux", 1, "after"), ("sdxl", 0, "after"), ("sdxl", 2, "within")]


def climb(kind: str, store: Path | None, **changes) -> list:
    """Two rungs above a first picture, by a generator that is needed beyond its seed."""
    from linzoo.diffusion import highres

    run = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(7), "store": store, **changes}
    if kind == "sdxl":
        tiny = build("sdxl", sample_size=8)
        words = {name: tiny.inputs[name] for name in PROMPT}
        return highres.sdxl_ladder(tiny.pipe, height=64, width=32, upscale_strength=0.5, **words, **run)
    tiny = build("flux")
    words = {name: tiny.inputs[name] for name in PROMPT if name in tiny.inputs}
    run = {"height": 64, "width": 96, "strengths": (0.5, 0.5), **words, **run}
    return highres.ladder(tiny.pipe, **run)


def killing(number: int, when: str) -> dict:
    """Callbacks that end the process after rung ``number``, or at a step within it."""
    finished = []

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def rung(pipe, at, image):
        finished.append(at)
        if when == "after" and at == number:
            die()

    def step(*_):
        if when == "within" and len(finished) == number:
            die()
        return {}

    return {"callback_on_rung_end": rung, "callback_on_step_end": step}


def store_of(folder: Path, case: tuple) -> Path:
    return Path(folder) / "_".join(map(str, case))


def main(folder: str) -> None:
    torch.set_num_threads(1)
    for kind in ("flux", "sdxl"):
        climb(kind, None)  # imports all that the forks need
    for case in CASES:
        process = os.fork()  # cheaper than importing torch for each
        if process == 0:
            kind, number, when = case
            climb(kind, store_of(folder, case), **killing(number, when))
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (case, status)
