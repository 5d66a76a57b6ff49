"""The diffusion recipes say what the authors published; each trains a tiny stand-in of its teacher."""

import argparse
import functools
import re
from importlib import resources

import pytest

from linzoo.tools import distill
from linzoo.tools.recipe import read_recipe, recipe_names

from ..tools.distill_teachers import make_pictures, save_teacher
from . import recipe_header
from .published_diffusion import ROWS

FOLDER = resources.files("linzoo.configs").joinpath("diffusion")
PARAMETERS = {
    "linfusion_sd15": "99,235,520", "linfusion_sd21": "99,235,520", "linfusion_sdxl": "435,480,800",
    **dict.fromkeys(("clear_flux_r8", "clear_flux_r16", "clear_flux_r32"), "1,793,648,640"),
    "clear_flux_r16_pooled": "1,793,648,640",
    **dict.fromkeys(("clear_flux_r8_down4", "clear_flux_r16_down4"), f"{1_793_648_640 + 57 * 16:,}"),
}  # fmt: skip
PUBLISHED = {
    "clear_flux_r8": "13.07", "clear_flux_r16": "13.72", "clear_flux_r32": "8.85", "lit_dit_s2": "50.79",
    "lit_dit_xl2": "2.32", "lit_dit_b2": "40.9", "lit_dit_l2": "24.0",
}  # fmt: skip
header, line = (functools.partial(read, "diffusion") for read in (recipe_header.header, recipe_header.line))
every_recipe = pytest.mark.parametrize("name", ROWS)


@pytest.fixture
def settings(name):
    """All flags of a run of the recipe."""
    parser = argparse.ArgumentParser()
    distill.add_arguments(parser)
    parser.set_defaults(**read_recipe(name, parser, "diffusion"))
    return parser.parse_args([])


def test_every_recipe_has_a_row():
    assert {name for name in recipe_names("diffusion") if not name.startswith("digits")} == set(ROWS)


@every_recipe
def test_the_recipe_amounts_to_what_the_authors_set(name, settings):
    row = ROWS[name]
    assert (settings.method, settings.method_kwargs) == (row.method, row.options)
    assert {term: getattr(settings, f"{term}_weight") for term in row.weights} == row.weights
    assert settings.objective is None and settings.train is None and settings.weights is None
    assert (settings.resolution, settings.resize, settings.hflip) == (row.side, row.resize, row.hflip)
    assert (settings.batch_size, settings.grad_accum_steps) == row.batch[1:]
    assert (settings.opt, settings.lr, settings.weight_decay) == (row.opt, row.lr, row.decay)
    assert (settings.sched, settings.warmup_steps) == ("constant", 0)
    assert (settings.clip_grad, settings.ema_decay, settings.max_steps) == (row.clip, row.ema, row.updates)
    assert settings.mixed_precision == row.precision and settings.timesteps == "uniform"
    assert settings.guidance == 3.5 and settings.label_dropout == 0.1


@every_recipe
def test_the_header_tells_command_cost_and_that_nothing_was_run(name, settings):
    row = ROWS[name]
    gpus, pictures, steps = row.batch
    command = line(name, "run")
    assert command.startswith(
        f"accelerate launch --num_processes {gpus} -m linzoo distill {name} --data-dir "
    )
    assert ("--teacher" in command) == (settings.teacher is None)
    group = gpus * pictures * steps
    accumulated = f" x {steps} steps" if steps > 1 else ""
    assert line(name, "cost") == (
        f"{row.updates:,} updates x {group} pictures ({gpus} GPUs x {pictures}{accumulated}) of "
        f"{row.side} px: {row.updates * group:,} pictures through teacher and student. GPU hours: not run"
    )
    assert PARAMETERS.get(name, "") in line(name, "trains")
    assert PUBLISHED.get(name, "") in line(name, "published")
    assert line(name, "result here") == "not run"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of tiny teachers and pictures, made when first asked for."""
    root, made = tmp_path_factory.mktemp("recipes"), {}

    def place(kind, changes=()):
        key = "-".join([kind, *(f"{k}{v}" for k, v in changes)])
        if key not in made:
            made[key] = root / key
            if kind in ("captions", "classes"):
                make_pictures(root / key, count=2, form="jsonl" if kind == "captions" else "classes")
            else:
                save_teacher(root / key, kind, **dict(changes))
        return made[key]

    return place


@every_recipe
def test_the_recipe_trains_a_tiny_stand_in_of_its_teacher(name, settings, tmp_path, places):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from linzoo.tools.distillation.session import distill as start

    row = ROWS[name]
    words = [name, "--teacher", str(places(row.kind, tuple(row.stand_in.items()))), "--resolution", "32"]
    words += ["--data-dir", str(places(settings.dataset)), "--cache", str(tmp_path / "cache")]
    words += ["--output", str(tmp_path), "--experiment", "run"]
    words += ["--device", "cpu", "-b", "2", "--grad-accum-steps", "1", "--max-steps", "1", "--samples", "0"]
    words += ["--mixed-precision", "no", "--log-interval", "1"]
    args = distill.parse(words)
    args.vae = None  # the stand-in has one
    run = start(args)
    assert run.handle.method.name == row.method and run.objective.name == row.method
    for option, value in row.options.items():
        found = getattr(run.handle.options, option)
        assert list(found) == value if isinstance(value, list) else found == value
    terms = {term for term, weight in row.weights.items() if weight}
    assert terms <= run.history[0].keys() and run.history[0]["loss"] > 0
    assert (run.folder / "weights").is_dir()


# the folder's page


def table():
    """The rows of README.md's table, from the recipes."""
    rows = ["| recipe | teacher | side | updates | pictures an update | trains | published | ours |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, row in ROWS.items():
        parser = argparse.ArgumentParser()
        distill.add_arguments(parser)
        teacher = read_recipe(name, parser, "diffusion").get("teacher")
        gpus, pictures, steps = row.batch
        published = line(name, "published")
        own = "" if "none for this recipe" in published else published
        figure = re.search(r"FID \d+\.\d+|GenEval \d\.\d+", own)
        trains = PARAMETERS.get(name, "all" if row.method == "lit" else "attention")
        cells = [
            f"`{name}`", f"`{teacher}`" if teacher else "yours", row.side, f"{row.updates:,}",
            gpus * pictures * steps, trains, figure[0] if figure else "-", "not run",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def test_the_page_lists_the_recipes():
    page = FOLDER.joinpath("README.md").read_text(encoding="utf-8")
    found = page.partition("<!-- recipes -->\n")[2].partition("\n<!-- /recipes -->")[0]
    assert found == table(), f"paste between the marks of configs/diffusion/README.md:\n{table()}"
