"""Samples of a run: a sheet of pictures in its folder and in TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..demo.pictures import picture
from .sampling import grid, sample


def show(run: Any) -> None:
    """Draw ``--samples`` pictures from what ``weights/`` holds, always from the same noise."""
    if run.primary:
        args = run.args
        conditions, absent = conditions_of(run, args.samples)
        with run.accelerator.autocast():
            latents = sample(
                run.best,
                run.scheduler,
                conditions,
                shape=run.samples.shape,
                steps=args.sample_steps,
                guidance=args.sample_guidance,
                seed=args.seed,
                absent=absent,
                embedded_guidance=args.guidance,
            )
        sheet = grid(decode(run, latents))
        picture(run.folder / "samples" / f"step-{run.step}.png", sheet)
        run.log.picture("samples", sheet, run.step)
    run.accelerator.wait_for_everyone()


def conditions_of(run: Any, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """The conditions of ``count`` pictures: every class in turn, or the first prompts; and the empty ones."""
    samples = run.samples
    if "labels" in run.denoiser.needs:
        return {"labels": torch.arange(count) % run.denoiser.config.num_embeds_ada_norm}, None
    rows = [samples.read(index % len(samples)).conditions for index in range(count)]
    conditions = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return conditions, {name: value.expand(count, *value.shape) for name, value in samples.absent.items()}


@torch.no_grad()
def decode(run: Any, latents: Tensor) -> Tensor:
    """Latents -> pictures from -1 to 1."""
    if run.vae is None:
        return latents
    vae = run.vae.to(run.device)
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    pictures = torch.cat([vae.decode(row).sample for row in scaled.split(1)])
    run.vae = vae.to("cpu")
    return pictures
