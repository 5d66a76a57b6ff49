"""kernels <- {vision, diffusion, pointcloud} <- tools, checked on the syntax tree: no import points back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels": set(),
    "vision": {"kernels"},
    "diffusion": {"kernels"},
    "pointcloud": {"kernels"},
    "tools": {"kernels", "vision", "diffusion", "pointcloud"},
}
FILES = [p for top in MAY_IMPORT for p in sorted((ROOT / top).rglob("*.py"))]


def imported_tops(path: Path, tree: ast.AST) -> set[str]:
    """The top-level folders of linzoo that the file imports, relative or absolute."""
    package = ("linzoo", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [
                ".".join((*base, node.module or "", alias.name)).replace("..", ".") for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("linzoo.")}
    return found & set(MAY_IMPORT)


def forbidden(path: Path, source: str) -> set[str]:
    top = path.relative_to(ROOT).parts[0]
    return imported_tops(path, ast.parse(source)) - MAY_IMPORT[top] - {top}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_the_wrong_way(path):
    assert not forbidden(path, path.read_text())


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("kernels/x.py", "from ..vision import pyramid", {"vision"}),
        ("kernels/linear_attn/x.py", "from ...vision.layers import rope", {"vision"}),
        ("kernels/x.py", "import linzoo.tools.bench", {"tools"}),
        ("vision/ravlt/x.py", "from linzoo import tools", {"tools"}),
        ("diffusion/x.py", "from ..vision import fold", {"vision"}),
        ("pointcloud/lion/x.py", "from ...vision import layers", {"vision"}),
        ("vision/ravlt/x.py", "from ...kernels import linear_attn", set()),
    ],
)
def test_the_check_sees_every_way_to_write_an_import(file, line, wrong):
    assert forbidden(ROOT / file, line) == wrong


def test_the_front_door_imports_no_folder_at_module_level():
    for path in (ROOT / "src" / "linzoo").glob("*.py"):
        top_level = [
            n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        names = {a.name for n in top_level for a in n.names} | {getattr(n, "module", "") for n in top_level}
        assert not names & {"torch", "timm", "linzoo.tools", "linzoo.vision", "tools", "vision"}, path
