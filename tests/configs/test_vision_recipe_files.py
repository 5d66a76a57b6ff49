"""The vision recipes say what the authors published, what a run costs, and which model they are for."""

import argparse
import functools
import importlib
import re
from importlib import resources

import pytest
import timm

from linzoo.tools import train
from linzoo.tools.models import count_macs
from linzoo.tools.recipe import read_recipe, recipe_names
from linzoo.vision import FAMILIES

from ..sampling import sampled
from . import recipe_header
from .published_vision import AUGMENTATION, ROWS, TOP1

FOLDER = resources.files("linzoo.configs").joinpath("vision")
VARIANTS = {
    name: variant
    for family in FAMILIES
    for name, variant in importlib.import_module(f"linzoo.vision.{family}").VARIANTS.items()
}
PICTURES = {"l2vit_base_in22k": 14_197_122}
GPUS = 8
macs_of = functools.cache(count_macs)
header, line = (functools.partial(read, "vision") for read in (recipe_header.header, recipe_header.line))
NAMES = [name for name in recipe_names() if name != "digits"]
every_recipe = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def parser():
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser


@pytest.fixture
def settings(name, parser):
    """All flags of a run of the recipe."""
    recipe = read_recipe(name, parser)
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    parser.set_defaults(**recipe)
    return parser.parse_args([])


def model_of(settings):
    return settings.model.partition(".")[0]


def epochs_of(settings):
    return int(settings.epochs + (settings.warmup_epochs if settings.warmup_prefix else 0))


def test_every_variant_has_a_recipe_of_its_name_and_every_recipe_a_row():
    assert set(VARIANTS) <= set(recipe_names())
    assert set(recipe_names()) == {*ROWS, "digits"}


@every_recipe
def test_the_recipe_trains_a_model_of_the_zoo_that_its_name_begins_with(name, settings):
    assert model_of(settings) in VARIANTS and name.startswith(model_of(settings))


@every_recipe
def test_the_recipe_amounts_to_what_the_authors_set(name, settings):
    row = ROWS[name]
    batch = GPUS * settings.batch_size * settings.grad_accum_steps
    assert batch == row.batch
    scale = 1 if settings.lr is not None else batch / settings.lr_base_size
    assert settings.lr is not None or settings.lr_base_scale == "linear"
    assert (settings.lr or settings.lr_base * scale) == pytest.approx(row.lr)
    for base, plain, published in (
        (settings.min_lr_base, settings.min_lr, row.min_lr),
        (settings.warmup_lr_base, settings.warmup_lr, row.first_lr),
    ):
        assert (plain if base is None else base * scale) == pytest.approx(published)
    assert (settings.opt, settings.sched, settings.cooldown_epochs) == ("adamw", "cosine", 0)
    assert (epochs_of(settings), settings.warmup_epochs) == (row.epochs, row.warmup)
    assert (settings.weight_decay, settings.clip_grad) == (row.decay, row.clip)
    own = getattr(VARIANTS[model_of(settings)], "drop_path_rate", 0.0)
    assert (own if settings.drop_path is None else settings.drop_path) == row.drop_path
    assert settings.aug_repeats == row.repeats
    assert (settings.amp_dtype if settings.amp else None) == row.autocast
    assert {key: getattr(settings, key) for key in AUGMENTATION} == AUGMENTATION


@every_recipe
def test_the_average_of_the_weights_is_the_authors(name, settings):
    published = ROWS[name].ema
    assert settings.model_ema == (published is not None)
    if published is not None:
        power = ROWS[name].batch / settings.model_ema_base_size if settings.model_ema_base_size else 1
        assert settings.model_ema_decay**power == pytest.approx(published, abs=1e-12)


@every_recipe
def test_architecture_is_not_repeated_in_a_recipe(name, settings):
    assert settings.model_kwargs == {}
    if settings.drop_path is not None:
        assert not hasattr(VARIANTS[model_of(settings)], "drop_path_rate")


@pytest.mark.parametrize("name", sampled(NAMES, [name for name in NAMES if name.endswith(("tiny", "384"))]))
def test_the_header_tells_command_cost_published_figure_and_that_nothing_was_run(name, settings):
    command = line(name, "run")
    assert command.startswith(f"torchrun --nproc-per-node {GPUS} -m linzoo train --config {name} --data-dir ")
    size = timm.get_pretrained_cfg(settings.model).input_size[-1]
    epochs, pictures = epochs_of(settings), PICTURES.get(name, 1_281_167)
    steps = f" x {settings.grad_accum_steps} steps" if settings.grad_accum_steps > 1 else ""
    macs = macs_of(model_of(settings), size)
    assert line(name, "cost") == (
        f"{epochs} epochs x {pictures:,} images, global batch {ROWS[name].batch} "
        f"({GPUS} GPUs x {settings.batch_size}{steps}), {macs / 1e9:.2f} GMAC an image at {size}: "
        f"{macs * pictures * epochs:.2e} multiply-adds forward. GPU hours: not run"
    )
    published = line(name, "published")
    top1 = re.search(r"top-1 (\d\d\.\d)", published)
    assert (float(top1[1]) if top1 else None) == TOP1.get(name)
    assert top1 or published.startswith(("none", "no "))
    assert line(name, "result here") == "not run"


@every_recipe
def test_the_published_figure_is_that_of_the_models_configuration(name, settings):
    notes = timm.get_pretrained_cfg(settings.model).notes or ()
    if name == settings.model and notes:
        assert f"top-1 {TOP1[name]}" in notes[0]


@every_recipe
def test_ours_is_marked_where_the_authors_state_nothing(name):
    """Each row of the table that says "ours" has its word in the recipe."""
    text = " ".join(header(name))
    if name in ("l2vit_tiny", "l2vit_small"):
        assert "Drop path is not stated by the authors for this size" in text
    if name.startswith("lightnet"):
        assert "All of this file is our choice" in text
    if name.startswith("inline"):
        assert "is ours" in text and "not stated" in text
    if name.startswith(("ravlt", "mala", "nalaformer")):
        assert "passes --drop-path 0.05, which their constructor ignores" in text


def test_the_digits_recipe_says_what_was_measured():
    """The form of the statement is checked here; that it is reached, by the run that the header names."""
    assert line("digits", "run") == "linzoo train --config digits"
    measured = line("digits", "result here")
    accuracy = re.match(r"(\d\d\.\d) % of the 360 held-out digits", measured)
    assert float(accuracy[1]) >= 97 and "CPU" in measured


# the folder's page


def table():
    """The rows of README.md's table, from the recipes."""
    rows = [
        "| recipe | image side | epochs | images an update | multiply-adds forward | published top-1 | ours |"
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for name in recipe_names():
        if name == "digits":
            continue
        cost = line(name, "cost")
        epochs, batch, size, total = re.match(
            r"(\d+) epochs .* global batch (\d+) .* at (\d+): (\S+) multiply-adds", cost
        ).groups()
        top1 = re.search(r"top-1 (\d\d\.\d)", line(name, "published"))
        cells = (f"`{name}`", size, epochs, batch, f"{float(total):.1e}", top1[1] if top1 else "-", "not run")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_page_lists_the_recipes():
    page = FOLDER.joinpath("README.md").read_text(encoding="utf-8")
    found = page.partition("<!-- recipes -->\n")[2].partition("\n<!-- /recipes -->")[0]
    assert found == table(), f"paste between the marks of configs/vision/README.md:\n{table()}"


def test_a_wheel_has_the_recipes():
    import tomllib
    from pathlib import Path

    data = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = data["tool"]["setuptools"]["package-data"]["linzoo.configs"]
    assert {"**/*.toml", "**/README.md"} <= set(patterns)
