"""Importing defines names and does nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WATCH = """
import sys
import torch, torchvision, timm  # what they open and import themselves is theirs

before, seen = set(sys.modules), []

def watch(event, args):
    # Python itself reads modules and lists folders to find them; anything else is work at import.
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so")):
        seen.append(args[0])
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir")):
        seen.append(event)

sys.addaudithook(watch)
import {module}
assert not seen, seen
assert not torch.cuda.is_initialized()
heavy = set("diffusers transformers mmdet mmengine matplotlib sklearn skimage triton onnx".split())
assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)
"""


def run(code: str, cwd=ROOT.parent) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_import_linzoo_brings_no_torch():
    out = run("import sys, linzoo, linzoo.cli; assert 'torch' not in sys.modules; print(linzoo.__version__)")
    assert out.returncode == 0, out.stderr


TOPS = ["linzoo.kernels", "linzoo.vision", "linzoo.diffusion", "linzoo.pointcloud", "linzoo.tools"]


@pytest.mark.parametrize("module", TOPS)
def test_importing_opens_no_file_no_network_and_no_device(module):
    out = run(WATCH.format(module=module))
    assert out.returncode == 0, out.stderr


def test_importing_the_kernels_needs_no_triton():
    out = run("import sys; sys.modules['triton'] = None; import linzoo.kernels, linzoo.vision")
    assert out.returncode == 0, out.stderr


def test_diffusers_imports_with_the_checkout_as_working_directory():
    pytest.importorskip("diffusers")
    out = run("from diffusers import DiTTransformer2DModel; print(DiTTransformer2DModel.__name__)", cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert "DiTTransformer2DModel" in out.stdout


def test_a_folder_named_kernels_on_the_path_stays_empty():
    out = run("import kernels; assert not hasattr(kernels, 'linear_attn')", cwd=ROOT)
    assert out.returncode == 0, out.stderr
