"""Memory plans: what a picture of a given size will take, and how to draw it within what there is.

    made = plan(pipe, 4096, 4096, memory="auto")
    print(made)
    with made.applied(pipe):
        latents = pipe(prompt, height=4096, width=4096, output_type="latent").images
        decode_to_file(pipe, latents, "large.png", tile=made.tile)

A plan is worked out without numbers: a copy of each model on the meta device runs the very code that will
run, and every tensor's making and end is counted. Measures change what is held, not what comes out.
"""

from .blank import Blank, blank
from .free import Peak, free_bytes, measured
from .inputs import denoiser_inputs
from .planner import plan
from .plans import MEASURES, MemoryPlanError, Plan
from .stages import Stage
from .tiles import decoded_rows
from .to_file import decode_to_file

__all__ = [
    "MEASURES",
    "Blank",
    "MemoryPlanError",
    "Peak",
    "Plan",
    "Stage",
    "blank",
    "decode_to_file",
    "decoded_rows",
    "denoiser_inputs",
    "free_bytes",
    "measured",
    "plan",
]
