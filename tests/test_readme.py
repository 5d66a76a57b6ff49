"""The README's table is the registry's, and its code runs as printed."""

import re
from pathlib import Path

import pytest
import timm

import linzoo.vision
from linzoo.tools.list_models import collect

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def zoo_table() -> str:
    """The table of the README, from the registry and the cards: paste this when it changes."""
    lines = ["| family | models: parameters, published top-1 | paper |", "|---|---|---|"]
    rows = collect("*", pretrained=False)
    for family in linzoo.vision.FAMILIES:
        title = (ROOT / "vision" / family / "README.md").read_text().partition("\n")[0].removeprefix("# ")
        models = []
        for row in (row for row in rows if row["family"] == family):
            top1 = re.search(r"top-1 (\d+\.\d+) \(", str(timm.get_pretrained_cfg(row["name"]).notes or ""))
            figures = f"{row['parameters'] / 1e6:.1f} M"
            if (
                top1 and row["name"] != "nalaformer_xt"
            ):  # published for a model of another size, says the card
                figures += f", {top1[1]} %"
            models.append(f"`{row['name']}` {figures}")
        number = row["paper"].partition(":")[2]
        paper = f"[{number}](https://arxiv.org/abs/{number})"
        lines.append(f"| [{title}](vision/{family}/README.md) | {'<br>'.join(models)} | {paper} |")
    return "\n".join(lines)


def test_the_zoo_table_is_the_registry():
    text = README.read_text()
    printed = text.split("<!-- zoo -->\n")[1].split("<!-- /zoo -->")[0].strip()
    assert printed == zoo_table(), f"paste into README.md:\n{zoo_table()}"


@pytest.mark.parametrize("index", [0, 1])
def test_the_quick_start_runs_as_printed(index):
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[index]
    exec(compile(block, f"README block {index}", "exec"), {})


def test_every_family_has_a_card_with_paper_code_and_weights():
    for family in linzoo.vision.FAMILIES:
        card = (ROOT / "vision" / family / "README.md").read_text()
        for row in ("| paper |", "| authors' code |", "| weights |"):
            assert row in card, (family, row)
