"""Recipes: what a file may say, and that whatever it may not say is refused with file, line and key."""

import argparse
from pathlib import Path

import pytest

from linzoo.tools.recipe import read_recipe, recipe_names


class KeyValues(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, dict(word.split("=") for word in values))


def percent(text):
    if not text.endswith("%"):
        raise argparse.ArgumentTypeError(f"a percentage ends in %, got {text!r}")
    return float(text[:-1]) / 100


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("data", nargs="?")
    add("-c", "--config")
    add("--model", default="")
    add("-b", "--batch-size", type=int, default=128)
    add("--lr", type=float)
    add("--decay-rate", "--dr", type=float, default=0.1)
    add("--amp", action=argparse.BooleanOptionalAction, default=False)
    add("--no-aug", action="store_true")
    add("--mode", choices=("norm", "value"), default="norm")
    add("--input-size", type=int, nargs=3)
    add("--mean", type=float, nargs="+")
    add("--folder", type=Path)
    add("--part", type=percent)
    add("--torchcompile", nargs="?", const="inductor")
    add("--model-kwargs", nargs="*", default={}, action=KeyValues)
    add("--report-to", default="none")
    add("--log-board", action="store_const", const="board", dest="report_to")
    return parser


@pytest.fixture
def recipe(tmp_path, parser):
    """Writes a recipe and reads it."""

    def read(text, suffix=".toml"):
        path = tmp_path / f"recipe{suffix}"
        path.write_text(text)
        return read_recipe(path, parser)

    return read


EVERY_KIND = """
model = "ravlt_tiny"
[data]
data = "pictures"
batch_size = 64
input_size = [3, 32, 48]
mean = [0.5, 1]
folder = "out"
[optimizer]
lr = 1
dr = 5e-2
amp = true
no_aug = false
mode = "value"
part = "25%"
torchcompile = true
[form.model_kwargs]
dims = [8, 16]
mixers = "linear"
"""


def test_every_kind_of_flag_takes_its_kind_of_value(recipe):
    assert recipe(EVERY_KIND) == {
        "model": "ravlt_tiny", "data": "pictures", "batch_size": 64, "input_size": [3, 32, 48],
        "mean": [0.5, 1.0], "folder": Path("out"), "lr": 1.0, "decay_rate": 0.05, "amp": True,
        "no_aug": False, "mode": "value", "part": 0.25, "torchcompile": "inductor",
        "model_kwargs": {"dims": [8, 16], "mixers": "linear"},
    }  # fmt: skip


def test_a_whole_number_becomes_the_flags_float(recipe):
    assert isinstance(recipe("lr = 1")["lr"], float)


def test_a_flag_on_the_command_line_wins_over_the_recipe(recipe, parser):
    parser.set_defaults(**recipe("lr = 0.5\nbatch_size = 64\n[x]\nmodel_kwargs = {a = 1}"))
    args = parser.parse_args(["--lr", "0.25"])
    assert (args.lr, args.batch_size, args.model_kwargs) == (0.25, 64, {"a": 1})


@pytest.mark.parametrize(("text", "words"), [
    ("\n[o]\nlerning = 1", "recipe.toml:3: lerning must be the name of a flag; `--help` lists"),
    ("bach_size = 1", "recipe.toml:1: bach_size must be the name of a flag; did you mean batch_size?"),
    ("config = 'x'", "config must be the name of a flag"),
    ("[optimizer]\n# lr = 3\nlr = '1e-3'", "recipe.toml:3: lr must be a number, got '1e-3'"),
    ("batch_size = 1.5", "batch_size must be a whole number, got 1.5"),
    ("batch_size = true", "batch_size must be a whole number, got true"),
    ("model = 3", "model must be a string, got 3"),
    ("folder = 3", "folder must be a string, got 3"),
    ("amp = 1", "amp must be true or false, got 1"),
    ("mode = 'agc'", "mode must be one of norm, value, got 'agc'"),
    ("input_size = [3, 32]", "input_size must be a list of 3 values, each a whole number, got [3, 32]"),
    ("mean = 0.5", "mean must be a list, each a number, got 0.5"),
    ("mean = []", "mean must be a list of at least one value"),
    ("mean = [0.5, 'x']", "mean must be a number, got 'x'"),
    ("model_kwargs = 3", "model_kwargs must be a table of names and values, got 3"),
    ("part = '25'", "part must be what --part takes: a percentage ends in %, got '25'"),
    ("lr = [1]", "lr must be a number, got [1]"),
    ("[a]\nlr = 1\n[b]\nlr = 2", "recipe.toml:4: lr is already given as lr"),
    ("decay_rate = 1\ndr = 2", "dr is already given as decay_rate"),
    ("batch_size = 1\n'batch-size' = 2", "batch-size is already given as batch_size"),
    ("no_amp = true", "no_amp must be the name of a flag; did you mean amp = false?"),
    ("log_board = true", "log_board must be the name of a flag"),
    ("lr = 1\nlr = 2", "a recipe must be TOML"),
    ("lr = ", "a recipe must be TOML"),
])  # fmt: skip
def test_what_a_flag_cannot_take_is_refused_with_line_and_key(recipe, text, words):
    with pytest.raises(ValueError) as caught:
        recipe(text)
    assert words in str(caught.value)


def test_the_line_is_that_of_the_table_that_holds_the_key(recipe):
    with pytest.raises(ValueError, match=r"recipe\.toml:5: lr must be a number"):
        recipe("[a.b]\nmodel = 'lr'\n[a]\nbatch_size = 2\nlr = 'x'")


# timm's YAML


def test_timms_yaml_is_read(recipe):
    text = "model: ravlt_tiny\nlr: 5e-4\nbatch_size: 64\namp: true\ninput_size: null\nmodel_kwargs: {a: 1}\n"
    assert recipe(text, ".yaml") == {
        "model": "ravlt_tiny", "lr": 5e-4, "batch_size": 64, "amp": True, "input_size": None,
        "model_kwargs": {"a": 1},
    }  # fmt: skip
    assert recipe("", ".yml") == {}


@pytest.mark.parametrize(("text", "words"), [
    ("lr: 1\nlerr: 2", "recipe.yaml:2: lerr must be the name of a flag; did you mean lr?"),
    ("lr: 1\nlr: 2", "recipe.yaml:2: lr is already given as lr"),
    ("lr: fast", "lr must be a number, got 'fast'"),
    ("batch_size: null", "batch_size must have a value, got null"),
    ("lr: [1", "a recipe must be YAML"),
    ("- lr", "a recipe must be a mapping"),
    ("optimizer: {lr: 1}", "optimizer must be the name of a flag"),
    ("lr: {a: 1}", "lr must be a number, got a table"),
])  # fmt: skip
def test_what_timms_yaml_cannot_say_is_refused(recipe, text, words):
    with pytest.raises(ValueError) as caught:
        recipe(text, ".yaml")
    assert words in str(caught.value)


# by name


def test_a_packaged_recipe_is_read_by_its_name(parser):
    from linzoo.tools import train

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    assert "ravlt_tiny" in recipe_names()
    settings = read_recipe("ravlt_tiny", parser)
    assert settings["model"] == "ravlt_tiny" and settings["epochs"] == 300


def test_an_unknown_name_names_the_nearest(parser):
    with pytest.raises(ValueError, match=r"packaged recipe, got 'ravlt_tiney'; did you mean ravlt_tiny\?"):
        read_recipe("ravlt_tiney", parser)


def test_a_file_that_is_not_there_is_refused(parser, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml is not a file"):
        read_recipe(tmp_path / "nowhere.toml", parser)


def test_a_binary_file_is_refused(parser, tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00lr")
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_recipe(tmp_path / "x.toml", parser)
