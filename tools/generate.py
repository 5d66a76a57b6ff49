"""``linzoo generate PROMPT --model FOLDER``: pictures of any size by diffusers pipelines, linear if asked."""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import check_writable, read_json, write_json
from .generate_flags import check, memory_bytes, parse_option, wanted_size

if TYPE_CHECKING:
    import torch

BLANKS = ("sd15", "sdxl", "flux")  # published configs that --plan-only knows without weights
SEED = "seed.json"  # beside the rungs, for --resume without --seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture shows")
    parser.add_argument(
        "--model",
        required=True,
        metavar="ID|FOLDER",
        help="diffusers pipeline: hub id or folder; for --plan-only also sd15, sdxl, flux",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("picture.png"), metavar="FILE", help=".png, .tif, .tiff"
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what the picture does not show")
    add_swap(parser.add_argument_group("linear attention"))
    add_size(parser.add_argument_group("size, in pixels"))
    add_run(parser.add_argument_group("run"))


def add_swap(swap: argparse._ArgumentGroup) -> None:
    swap.add_argument(
        "--method", choices=("linfusion", "clear", "lit"), help="default: the pipeline as it is"
    )
    swap.add_argument("--weights", metavar="official|ID|FOLDER|FILE", help="default: the softmax model's own")
    swap.add_argument(
        "--options", nargs="+", default=[], metavar="NAME=VALUE", help="of the method: radius=8"
    )


def add_size(size: argparse._ArgumentGroup) -> None:
    size.add_argument("--height", type=int, metavar="PX", help="of the last picture")
    size.add_argument("--width", type=int, metavar="PX", help="of the last picture")
    size.add_argument("--size", metavar="WIDTHxHEIGHT", help="both: --size 8192x4096 is wider than high")
    size.add_argument(
        "--ladder",
        nargs="?",
        const="sdedit",
        choices=("sdedit", "linfusion", "clear"),
        help="climb to the size: by image-to-image (default), LinFusion's rungs for SD-XL, CLEAR's for FLUX",
    )
    size.add_argument(
        "--super-resolution", type=Path, metavar="IMAGE", help="enlarge a picture by one rung or more"
    )
    size.add_argument("--strengths", type=float, nargs="+", metavar="S", help="one a rung, the lowest first")
    size.add_argument("--factor", type=int, metavar="N", help="enlargement of a rung (default 2)")


def add_run(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--steps", "--num-inference-steps", type=int, default=None, metavar="N", help="default 50"
    )
    run.add_argument("--guidance-scale", type=float, metavar="G", help="default: the pipeline's own")
    run.add_argument("--seed", type=int, metavar="N", help="default: by chance; it is printed")
    run.add_argument(
        "--memory", default="auto", metavar="auto|BYTES|none", help="plan to fit: 24GB (default auto)"
    )
    run.add_argument(
        "--plan-only", action="store_true", help="print the memory plan of the last picture, and stop"
    )
    run.add_argument("--resume", action="store_true", help="go on after the last finished rung")
    run.add_argument("--device", help="default: cuda where there is one, else cpu")
    run.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on a CPU, else bfloat16"
    )
    run.add_argument("--offload", choices=("model", "sequential"), help="diffusers' CPU offload")
    run.add_argument("--no-progress", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    height, width = wanted_size(args)
    memory = memory_bytes(args.memory)
    options = dict(parse_option(text) for text in args.options)
    check(args, options)
    if args.plan_only and args.model in BLANKS and not Path(args.model).exists():
        print_blank_plan(args, height, width, memory, options)
        return 0
    check_writable(args.output.parent, "--output")
    pipe = load(args, options)
    if args.plan_only:
        print_plan(pipe, args, height, width, memory)
        print("planned, not run")
        return 0
    if memory is not None:
        print_plan(pipe, args, height, width, memory)
    images = draw(pipe, args, height, width, memory)
    last = images[-1]
    print(f"{args.output}: {last.height} x {last.width} (height x width)")
    return 0


def load(args: argparse.Namespace, options: dict[str, Any]) -> Any:
    """The pipeline, linearized if asked, on its device."""
    import torch
    from diffusers import DiffusionPipeline

    from ..diffusion import linearize
    from ..diffusion.handle import load_pipeline
    from ..diffusion.highres.image_to_image import image_to_image
    from .predict import usable_device

    folder = Path(args.model)
    if not folder.is_dir() and (folder.is_absolute() or args.model.startswith(".") or folder.exists()):
        raise ValueError(f"--model must be a hub id or a folder, {args.model} is no folder")
    device = usable_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    saved = args.method is None and (folder / "linearized").is_dir()
    with warnings.catch_warnings():  # newer diffusers say dtype, older ones know torch_dtype only
        warnings.filterwarnings("ignore", message=".*torch_dtype")
        pipe = (load_pipeline if saved else DiffusionPipeline.from_pretrained)(args.model, torch_dtype=dtype)
    try:
        image_to_image(pipe)
    except ValueError as error:
        raise ValueError(str(error).replace("pipe", "--model", 1)) from error
    if args.method is not None:
        linearize(pipe, args.method, weights=args.weights, **options)
        if args.weights is None:
            what = f"the {args.method} attention is untrained, it has the softmax model's projections"
            print(f"linzoo generate: without --weights {what}", file=sys.stderr)
    if args.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif args.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    if args.no_progress:
        pipe.set_progress_bar_config(disable=True)
    return pipe


def print_plan(
    pipe: Any, args: argparse.Namespace, height: int | None, width: int | None, memory: Any
) -> None:
    """Of the last picture, which needs the most."""
    from ..diffusion.memory import plan

    if args.super_resolution:
        total = (args.factor or 2) ** len(args.strengths or (1,))
        start = read_picture(args.super_resolution)
        height, width = start.height * total, start.width * total
    print(plan(pipe, *default_size(pipe, height, width), memory=memory))


def print_blank_plan(
    args: argparse.Namespace, height: int | None, width: int | None, memory: Any, options: dict[str, Any]
) -> None:
    """Of a published model's config, without its weights."""
    import torch

    from ..diffusion.memory import blank, plan

    if height is None:
        raise ValueError(f"--plan-only with --model {args.model} needs --height and --width, or --size")
    dtype = getattr(torch, args.dtype or "bfloat16")
    parts = blank(args.model, method=args.method, dtype=dtype, **options)
    print(plan(parts, height, width, memory=memory, offload=args.offload is not None))
    print("planned, not run")


def default_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    from ..diffusion.highres.sizes import native_side

    return (native_side(pipe),) * 2 if height is None else (height, width)


def draw(
    pipe: Any, args: argparse.Namespace, height: int | None, width: int | None, memory: Any
) -> list[Any]:
    """The pictures of all rungs; the last is written to ``--output``, the others beside it."""
    from ..diffusion import highres

    words: dict[str, Any] = {"output": args.output, "memory": memory}
    if args.negative_prompt is not None:
        words["negative_prompt"] = args.negative_prompt
    if args.guidance_scale is not None:
        words["guidance_scale"] = args.guidance_scale
    if args.steps is not None:
        words["num_inference_steps"] = args.steps
    for name in ("strengths", "factor"):
        if getattr(args, name):
            words[name] = getattr(args, name)
    if args.ladder or args.super_resolution:
        words |= {"store": store_of(args), "resume": args.resume}
    words["generator"] = seeded(args)
    if args.super_resolution:
        words["image"] = read_picture(args.super_resolution)
        if is_sdxl(pipe):
            return highres.super_resolution(pipe, args.prompt, **words)
        return highres.ladder(pipe, args.prompt, **({"strengths": (0.32,)} | words))
    words["height"], words["width"] = default_size(pipe, height, width)
    if args.ladder == "linfusion":
        return highres.sdxl_ladder(pipe, args.prompt, **words)
    if args.ladder == "clear":
        if args.guidance_scale is not None:
            words["rung_words"] = {"guidance_scale": args.guidance_scale}
        return highres.clear_ladder(pipe, args.prompt, **words)
    return highres.ladder(pipe, args.prompt, **(words if args.ladder else words | {"strengths": ()}))


def store_of(args: argparse.Namespace) -> Path:
    return args.output.with_name(f"{args.output.name}.rungs")


def is_sdxl(pipe: Any) -> bool:
    config = getattr(getattr(pipe, "unet", None), "config", {})
    return config.get("addition_embed_type") == "text_time"


def seeded(args: argparse.Namespace) -> torch.Generator:
    """By ``--seed``; else that of the run that is resumed; else by chance, told and kept beside the rungs."""
    import torch

    place = store_of(args) / SEED
    kept = (read_json(place) or {}).get("seed") if args.resume else None
    seed = kept if args.seed is None else args.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
        print(f"--seed {seed}")
    if (args.ladder or args.super_resolution) and kept is None:
        write_json(place, {"seed": seed})
    return torch.Generator().manual_seed(seed)


def read_picture(path: Path) -> Any:
    """A picture file in RGB. Raises: ValueError, OSError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"--super-resolution must be a picture that Pillow can read, got {path}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"--super-resolution: {error}") from error
