"""One denoising step of a real-width diffusion model in a process of its own, as JSON on one line.

``python -m linzoo.tools.demo.diffusion_scaling_point '{"model": "sd15", "size": 512, ..}'``; it
leaves when its standard input closes, so that it never outlives whoever started it. Weights are random:
neither time nor memory depends on them.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time

from .scaling_point import leave_with_parent

TEXT = {"sd15": 77, "small": 77, "flux_pair": 512}
OPTIONS = {"linfusion": {}, "clear": {"radius": 8}}
SMALL = dict(
    block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=768,
    attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
RETURNED = 1 << 20  # bytes from which freed memory goes back to the system at once, glibc


def main() -> None:
    threading.Thread(target=leave_with_parent, daemon=True).start()
    return_freed_memory()
    request = json.loads(sys.argv[1])
    print(json.dumps(measure(**request)))


def return_freed_memory() -> None:
    """So that the high-water mark is that of the tensors, not of what malloc keeps for later.

    glibc keeps freed blocks of up to 32 MB; the large tensors of large pictures go back in any case.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(-3, RETURNED)  # M_MMAP_THRESHOLD
    mallopt(-1, RETURNED)  # M_TRIM_THRESHOLD


def measure(model: str, attention: str, size: int, measures: tuple[str, ...] | list[str] = ()) -> dict:
    """CPU seconds of one step for one picture on one thread, float32, and memory in MB.

    Args:
        model: "sd15", Stable Diffusion 1.5's UNet; "flux_pair", one joint and one single block of FLUX; or
            "small", a UNet to try that it runs.
        attention: "softmax", or what replaces it: "linfusion" for the UNet, "clear" (radius 8) for FLUX.
        size: pixels of the picture's side.
        measures: of ``linzoo.diffusion.memory`` that are on.
    Returns: ``megabytes``: high-water mark over the loaded process; ``predicted``: what the memory plan says
        of it; ``weights``: of the model.
    """
    import torch

    from linzoo.diffusion.memory import plan
    from linzoo.diffusion.memory.free import mark, reset_mark

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(model, attention)
    made = plan(network, size, size, memory=None, guidance=False, measures=tuple(measures))
    with torch.inference_mode(), made.applied(network):
        network(**inputs_of(model, network, 128))  # libraries start, code paths load
        words = inputs_of(model, network, size)
        baseline = reset_mark()
        began = time.process_time()
        network(**words)
        seconds = time.process_time() - began
    return {
        "model": model,
        "attention": attention,
        "size": size,
        "seconds": seconds,
        "measures": list(made.measures),
        "megabytes": (mark() - baseline) / 1e6,
        "predicted": made.work / 1e6,
        "weights": sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6,
        "dtype": "float32",
        "process_seconds": time.process_time(),
    }


def build(model: str, attention: str):
    """The network with small random weights, norms at one."""
    from linzoo.diffusion import linearize

    network = empty(model).to_empty(device="cpu").eval().requires_grad_(False)
    fill(network)
    if attention != "softmax":
        linearize(network, attention, **OPTIONS[attention])
    return network


def empty(model: str):
    """The network on the meta device."""
    import torch
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel

    from linzoo.diffusion.memory import blank

    if model == "sd15":
        return blank("sd15", dtype=torch.float32).components["unet"]
    with torch.device("meta"):
        if model == "small":
            return UNet2DConditionModel(**SMALL)
        return FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)


def fill(network) -> None:
    """One block of noise in every matrix: drawing a billion numbers would take longer than the step."""
    import torch

    noise = 0.02 * torch.randn(max(p.numel() for p in network.parameters()))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(noise[: parameter.numel()].view_as(parameter))
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def inputs_of(model: str, network, size: int) -> dict:
    """One picture of ``size`` pixels, one row: no guidance."""
    import torch

    from linzoo.diffusion.memory import denoiser_inputs

    side, text = size // 8, TEXT[model]
    words = denoiser_inputs(network, (side, side), 1, text, torch.float32)
    tensors = {name: x for name, x in words.items() if isinstance(x, torch.Tensor)}
    made = {
        name: torch.randn(x.shape) if x.is_floating_point() else torch.tensor(500)
        for name, x in tensors.items()
    }
    if model == "flux_pair":
        ids = torch.zeros(side // 2, side // 2, 3)
        ids[..., 1], ids[..., 2] = torch.arange(side // 2)[:, None], torch.arange(side // 2)
        made |= {"img_ids": ids.flatten(0, 1), "txt_ids": torch.zeros(text, 3)}
    return made


if __name__ == "__main__":
    main()
