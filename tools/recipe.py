"""Recipes: a run's settings in a file, checked key by key against the command's own flags.

A key is a flag's name with underscores (``lr_base`` for ``--lr-base``). In a TOML file tables are headings
and say nothing (``[optimizer]`` above ``lr``), except those that a flag takes, such as ``model_kwargs``. A
YAML file is flat, as timm's ``train.py`` reads and writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from .recipe_values import fitting

SUFFIXES = (".toml", ".yaml", ".yml")
NOT_KEYS = ("help", "config", "run", "command", "debug")  # of the command line itself, not of the run
NO_ALIAS = (argparse._StoreFalseAction, argparse.BooleanOptionalAction, argparse._StoreConstAction)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a file: the name as written, its value, and where it stands."""

    key: str
    value: Any
    where: str


def recipe_names(domain: str = "vision") -> list[str]:
    """The packaged recipes: the stems of ``configs/<domain>/*.toml``."""
    files = _packaged(domain).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def read_recipe(
    path_or_name: str | Path, parser: argparse.ArgumentParser, domain: str = "vision"
) -> dict[str, Any]:
    """The settings in a recipe as ``{dest: value}``, ready for ``parser.set_defaults``.

    Args:
        path_or_name: a ``.toml``, ``.yaml`` or ``.yml`` file, or the name of a packaged recipe.
        parser: of the command; its flags say which keys there are, and of which type and choices.
        domain: the folder of the packaged recipes.
    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown name, a file that does not parse, an unknown key, a value of the wrong type or
            outside the choices, a setting given twice. The message names file, line and key.
    """
    name, text, lenient = _read(path_or_name, domain)
    entries = _yaml_entries(name, text) if lenient else _toml_entries(name, text, parser)
    spellings = _spellings(parser)
    settings: dict[str, Any] = {}
    given: dict[str, Entry] = {}
    for entry in entries:
        action = spellings.get(entry.key.replace("-", "_"))
        if action is None:
            raise ValueError(f"{entry.where}: {_unknown(entry.key, spellings)}")
        if action.dest in given:
            first = given[action.dest]
            raise ValueError(
                f"{entry.where}: {entry.key} is already given as {first.key} ({first.where}); one of them"
            )
        given[action.dest] = entry
        try:
            settings[action.dest] = fitting(action, entry.value, lenient)
        except ValueError as error:
            raise ValueError(f"{entry.where}: {entry.key} {error}") from error
    return settings


def _packaged(domain: str):
    return resources.files("linzoo.configs").joinpath(domain)


def _read(path_or_name: str | Path, domain: str) -> tuple[str, str, bool]:
    """What to call the file in messages, its text, whether it is YAML."""
    path = Path(path_or_name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise FileNotFoundError(f"--config must be a file or a packaged recipe, {path} is not a file")
        source = path
    else:
        names = recipe_names(domain)
        if str(path_or_name) not in names:
            near = get_close_matches(str(path_or_name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"recipes: {', '.join(names)}"
            raise ValueError(
                "--config must be a .toml or .yaml file or a packaged recipe, "
                f"got {str(path_or_name)!r}; {hint}"
            )
        source = _packaged(domain).joinpath(f"{path_or_name}.toml")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path_or_name}: a recipe must be UTF-8 text: {error.reason}") from error
    return str(path_or_name), text, path.suffix in SUFFIXES[1:]


def _spellings(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Key -> the flag that it sets: its dest and each of its long names, with underscores."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest in NOT_KEYS or isinstance(action, argparse._SubParsersAction):
            continue
        found.setdefault(action.dest, action)
        if isinstance(action, NO_ALIAS):
            continue  # `no_amp = true` would turn the meaning round: only `amp = false`
        for option in action.option_strings:
            if option.startswith("--"):
                found.setdefault(option[2:].replace("-", "_"), action)
    return found


def _unknown(key: str, spellings: Mapping[str, argparse.Action]) -> str:
    name = key.replace("-", "_")
    turned = name.removeprefix("no_")
    near = [f"{turned} = false"] if name != turned and turned in spellings else []
    near = near or get_close_matches(name, spellings, n=1)
    hint = f"did you mean {near[0]}?" if near else "`--help` lists the flags; a key is one with underscores"
    return f"{key} must be the name of a flag; {hint}"


def _toml_entries(name: str, text: str, parser: argparse.ArgumentParser) -> Iterator[Entry]:
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}: a recipe must be TOML: {error}") from error
    tables = {a.dest for a in parser._actions if isinstance(a.default, dict)}
    lines = text.splitlines()

    def walk(table: Mapping[str, Any], heading: tuple[str, ...]) -> Iterator[Entry]:
        for key, value in table.items():
            if isinstance(value, dict) and key not in tables:
                yield from walk(value, (*heading, key))
            else:
                yield Entry(key, value, f"{name}:{_toml_line(lines, heading, key)}")

    yield from walk(content, ())


def _toml_line(lines: list[str], heading: tuple[str, ...], key: str) -> int:
    """The number of the line that sets ``key`` below ``heading``; of the heading where the key has none."""
    wanted, own = ".".join(heading), ".".join((*heading, key))
    current, at = "", 1
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        if word.startswith("["):
            current = word.strip("[]").replace(" ", "").replace('"', "")
            at = number if current in (wanted, own) else at
            if current == own:
                return number
        elif current == wanted and word.partition("=")[0].strip().strip("\"'") == key:
            return number
    return at


def _yaml_entries(name: str, text: str) -> Iterator[Entry]:
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: a recipe must be YAML: {' '.join(str(error).split())}") from error
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{name}: a recipe must be a mapping from flags to values, as timm's train.py reads")
    for key_node, _ in root.value:  # the nodes hold a key twice where it is written twice; the dict does not
        key = key_node.value
        yield Entry(key, content[key], f"{name}:{key_node.start_mark.line + 1}")
