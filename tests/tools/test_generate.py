"""``linzoo generate``: pictures from a folder, as the library draws them; plans; refusals in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from PIL import Image

from linzoo import cli
from linzoo.tools.generate_flags import memory_bytes, parse_option

from .generate_pipelines import save_sd, save_sdxl


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_sd(folder / "sd")
    save_sdxl(folder / "sdxl")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def generate(model: Path | str, *flags: str, prompt: str = "a cat") -> int:
    return cli.main(
        ["generate", prompt, "--model", str(model), "--steps", "4", "--no-progress", *map(str, flags)]
    )


def pixels(path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def load(folder: Path):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_one_picture_is_the_pipelines_own(models, capsys):
    flags = ("--size", "32x16", "--seed", 3, "--guidance-scale", 6, "--negative-prompt", "dogs")
    assert generate(models / "sd", *flags, "--output", "out/a.png") == 0
    printed = capsys.readouterr().out
    assert "out/a.png: 16 x 32 (height x width)" in printed and "predicted peak" in printed
    wanted = load(models / "sd")(
        "a cat", height=16, width=32, num_inference_steps=4, guidance_scale=6.0, negative_prompt="dogs",
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert np.array_equal(pixels("out/a.png"), np.asarray(wanted))
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]


def test_a_ladder_is_the_librarys_and_keeps_its_rungs(models):
    from linzoo.diffusion import highres, linearize

    flags = ("--height", 32, "--width", 64, "--ladder", "--strengths", 0.5, "--seed", 3, "--memory", "none")
    flags += ("--method", "linfusion", "--options", "projection_mid_dim=-1")
    assert generate(models / "sd", *flags, "--output", "a.tif") == 0
    pipe = load(models / "sd")
    linearize(pipe, "linfusion", projection_mid_dim=-1)
    found = highres.ladder(
        pipe, "a cat", height=32, width=64, strengths=(0.5,), num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    for place, wanted in zip(("a.tif.rungs/rung_0.png", "a.tif"), found, strict=True):
        assert np.array_equal(pixels(place), np.asarray(wanted))


def test_a_run_resumes_with_its_own_seed(models, capsys):
    flags = ("--size", "32x32", "--ladder", "--strengths", 0.5, "--memory", "none", "--output", "a.png")
    assert generate(models / "sd", *flags) == 0
    seed = json.loads(Path("a.png.rungs/seed.json").read_text())["seed"]
    assert f"--seed {seed}" in capsys.readouterr().out
    first = pixels("a.png")
    Path("a.png").unlink()
    Path("a.png.rungs/rung_1.safetensors").unlink()
    assert generate(models / "sd", *flags, "--resume") == 0
    assert np.array_equal(pixels("a.png"), first) and "--seed" not in capsys.readouterr().out
    assert generate(models / "sd", *flags, "--resume", "--seed", seed + 1) == 2
    assert "store must hold rungs of this run" in capsys.readouterr().err
    assert generate(models / "sd", *flags, "--seed", seed) == 0  # begins anew
    assert np.array_equal(pixels("a.png"), first)


def test_sdxl_climbs_by_linfusions_rungs_and_enlarges_pictures(models):
    from linzoo.diffusion import highres

    flags = ("--size", "32x16", "--ladder", "linfusion", "--seed", 3, "--memory", "none")
    assert generate(models / "sdxl", *flags, "--output", "a.png") == 0
    pipe, steps = load(models / "sdxl"), {"num_inference_steps": 4}
    found = highres.sdxl_ladder(
        pipe, "a cat", height=16, width=32, generator=torch.Generator().manual_seed(3), **steps
    )
    assert np.array_equal(pixels("a.png"), np.asarray(found[-1]))
    flags = ("--super-resolution", "a.png", "--strengths", 0.5, "--seed", 4, "--memory", "none")
    assert generate(models / "sdxl", *flags, "--output", "b.png") == 0
    found = highres.super_resolution(
        pipe, "a cat", image=found[-1], strengths=(0.5,), generator=torch.Generator().manual_seed(4), **steps
    )
    assert np.array_equal(pixels("b.png"), np.asarray(found[-1])) and found[-1].size == (64, 32)


def test_plan_only_draws_nothing(models, capsys, monkeypatch):
    from linzoo.diffusion import memory

    assert generate(models / "sd", "--size", "64x32", "--plan-only") == 0
    printed = capsys.readouterr().out
    assert "memory plan: 32 x 64 pixels" in printed and printed.rstrip().endswith("planned, not run")
    assert not Path("picture.png").exists()

    asked = []
    monkeypatch.setattr(memory, "blank", lambda *a, **w: asked.append((a, w)))
    monkeypatch.setattr(memory, "plan", lambda parts, *size, **w: asked.append((size, w)) or "the plan")
    flags = ("--size", "16384x8192", "--method", "linfusion", "--memory", "80GB", "--plan-only")
    assert generate("sdxl", *flags) == 0
    assert capsys.readouterr().out == "the plan\nplanned, not run\n"
    assert asked[0] == (("sdxl",), {"method": "linfusion", "dtype": torch.bfloat16})
    assert asked[1] == ((8192, 16384), {"memory": 80_000_000_000, "offload": False})


def test_a_memory_that_is_too_small_is_told_in_one_line(models, capsys):
    assert generate(models / "sd", "--size", "64x64", "--memory", "1MB") == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("linzoo generate: memory must be at least") and "64 x 64" in error[-1]


def test_a_saved_linear_pipeline_is_linear_again(models, tmp_path):
    from linzoo.diffusion import linearize

    pipe = load(models / "sd")
    linearize(pipe, "linfusion").save_pipeline(tmp_path / "linear")
    flags = ("--size", "16x16", "--seed", 3, "--memory", "none")
    assert generate(tmp_path / "linear", *flags, "--output", "linear.png") == 0
    assert generate(models / "sd", *flags, "--output", "softmax.png") == 0
    wanted = pipe(
        "a cat", height=16, width=16, num_inference_steps=4, generator=torch.Generator().manual_seed(3)
    )
    assert np.array_equal(pixels("linear.png"), np.asarray(wanted.images[0]))
    assert not np.array_equal(pixels("linear.png"), pixels("softmax.png"))


def test_a_folder_that_is_not_there_is_no_hub_id(capsys, tmp_path):
    assert generate(tmp_path / "none", "--size", "16x16") == 2
    assert "--model must be a hub id or a folder" in capsys.readouterr().err


REFUSED = [
    (("--size", "big"), "--size must be WIDTHxHEIGHT, such as 8192x4096, got 'big'"),
    (("--size", "0x8"), "--width must be at least 1, got 0"),
    (("--size", "8x8", "--height", "8"), "give one or the other"),
    (("--height", "8"), "--height and --width go together"),
    (("--output", "a.jpg"), "--output must end in .png, .tif, .tiff, got a.jpg"),
    (("--weights", "official"), "--weights needs --method"),
    (("--options", "radius"), "--options must be NAME=VALUE, got 'radius'"),
    (("--options", "radius=8"), "--options needs --method"),
    (("--memory", "lots"), "--memory must be auto, none or bytes (24GB, 16GiB, 8e9), got 'lots'"),
    (("--ladder", "--super-resolution", "a.png"), "--ladder starts from the prompt"),
    (("--strengths", "0.5"), "--strengths needs --ladder or --super-resolution"),
    (("--resume",), "--resume needs --ladder or --super-resolution"),
    (("--ladder", "linfusion", "--factor", "4"), "--strengths and --factor have no use"),
    (("--super-resolution", "none.png"), "--super-resolution must be a picture file, none.png is not there"),
    (("--steps", "0"), "--steps must be at least 1, got 0"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_flags_that_do_not_go_together_are_refused_before_a_model_is_read(capsys, flags, message):
    assert generate("not/there", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("linzoo generate: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "32x32", "--ladder", "clear"), "ntk_factor needs rotary positions (FLUX)"),
        (("--size", "32x32", "--ladder", "linfusion"), "pipe must be a StableDiffusionXLPipeline"),
        (("--method", "clear", "--size", "32x32"), "UNet2DConditionModel"),
        (("--method", "linfusion", "--options", "radius=8"), "radius is not an option of method='linfusion'"),
        (("--device", "abacus"), "--device must be a device of this machine, got 'abacus'"),
    ],
)
def test_what_the_model_cannot_do_is_refused_in_one_line(models, capsys, flags, message):
    assert generate(models / "sd", "--memory", "none", *flags) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("linzoo generate: ") and message in error[-1]
    assert not Path("picture.png").exists()


def test_a_model_that_is_not_there_is_told_in_one_line(capsys):
    assert generate("nobody/nothing", "--size", "16x16") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("linzoo generate: ")


def test_a_file_that_is_no_picture_is_told(models, capsys):
    Path("x.png").write_text("no picture")
    assert generate(models / "sd", "--super-resolution", "x.png", "--memory", "none") == 2
    assert "--super-resolution must be a picture that Pillow can read, got x.png" in capsys.readouterr().err


def test_bytes_and_options_are_read():
    sizes = {
        "24GB": 24 * 10**9,
        "1.5GiB": 3 * 2**29,
        "8e9": 8 * 10**9,
        "100": 100,
        "2kb": 2000,
        "auto": "auto",
    }
    assert {text: memory_bytes(text) for text in sizes} == sizes and memory_bytes("none") is None
    for text in ("-1GB", "0", "GB", "1XB", "nan", "inf"):
        with pytest.raises(ValueError, match="--memory must be auto, none or bytes"):
            memory_bytes(text)
    options = [parse_option(text) for text in ("radius=8", "inherit=v", "pooled_tokens=(2,3)", "x=True")]
    assert options == [("radius", 8), ("inherit", "v"), ("pooled_tokens", (2, 3)), ("x", True)]
