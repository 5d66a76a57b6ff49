"""Wheel and sdist hold every module; both import from a place that is not this checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built through an sdist so that a file missing from either is seen."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_tracked_module_and_card(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for top in ("kernels", "vision", "diffusion", "pointcloud", "configs", "tools"):
        for path in (ROOT / top).rglob("*"):
            wanted = path.suffix in (".py", ".json", ".toml", ".yml", ".safetensors")
            wanted |= path.name == "README.md" and top != "tools"
            if wanted and "__pycache__" not in path.parts:
                assert f"linzoo/{path.relative_to(ROOT)}" in inside
    assert "linzoo/py.typed" in inside


def test_nothing_lands_bare_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"linzoo"}


def test_the_installed_wheel_imports_and_builds_a_model(wheel, tmp_path):
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    code = f"""
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]  # not the checkout
sys.path.insert(0, {str(tmp_path)!r})
import linzoo.kernels, linzoo.vision, linzoo.diffusion, linzoo.pointcloud, linzoo.tools, timm
for module in (linzoo, linzoo.kernels, linzoo.vision, linzoo.diffusion, linzoo.pointcloud, linzoo.tools):
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
assert timm.create_model("ravlt_tiny", device="meta").num_classes == 1000
from linzoo.tools.recipe import recipe_names
assert {{"digits", "ravlt_tiny"}} <= set(recipe_names())
assert {{"digits_lit", "linfusion_sd15"}} <= set(recipe_names("diffusion"))
from mmengine import Config
detector = "linzoo/configs/detection/retinanet_ravlt-tiny_fpn_1x_coco.py"
assert Config.fromfile({str(tmp_path)!r} + "/" + detector).model.backbone.model_name == "ravlt_tiny"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
