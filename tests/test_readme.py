"""The README's table is the registry's, and its code runs as printed."""

import re
from pathlib import Path

import pytest
import timm

import linzoo.vision
from linzoo.tools.list_models import collect

README = Path(__file__).parents[1] / "README.md"


def zoo_table() -> str:
    """The table of the README, from the registry: paste this when it changes."""
    lines = ["| model | parameters | top-1 | weights | paper |", "|---|---|---|---|---|"]
    for row in collect("*", pretrained=False):
        cfg = timm.get_pretrained_cfg(row["name"])
        top1 = re.search(r"(\d\d\.\d+)", str(cfg.notes or ""))
        lines.append(
            f"| `{row['name']}` | {row['parameters'] / 1e6:.1f} M | {top1[1] if top1 else '-'} "
            f"| {row['weights']} | {row['paper']} |"
        )
    return "\n".join(lines)


def test_the_zoo_table_is_the_registry():
    text = README.read_text()
    printed = text.split("<!-- zoo -->\n")[1].split("\n<!-- /zoo -->")[0]
    assert printed == zoo_table(), f"paste into README.md:\n{zoo_table()}"


@pytest.mark.parametrize("index", [0, 1])
def test_the_quick_start_runs_as_printed(index):
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[index]
    exec(compile(block, f"README block {index}", "exec"), {})


def test_every_family_has_a_card_with_paper_and_licence():
    for family in linzoo.vision.FAMILIES:
        name = family if isinstance(family, str) else family.__name__.rpartition(".")[2]
        card = (README.parent / "vision" / name / "README.md").read_text()
        assert "arXiv" in card and "icen" in card, name

