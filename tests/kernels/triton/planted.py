"""Runs child.py on kernels with one line changed, to show that the suite would see it.

TRITON_INTERPRET=1 python planted.py MODULE OLD NEW TMP child-arguments...
"""

import importlib
import importlib.util
import runpy
import sys
from pathlib import Path


def plant(module: str, old: str, new: str, folder: Path) -> None:
    """Loads linzoo.kernels.linear_attn.<module> with the first OLD of its source replaced by NEW."""
    package = importlib.import_module("linzoo.kernels.linear_attn")
    source = Path(package.__file__).with_name(f"{module}.py").read_text()
    assert old in source, f"{old!r} is not in {module}.py"
    changed = folder / f"{module}.py"
    changed.write_text(source.replace(old, new, 1))
    name = f"{package.__name__}.{module}"
    spec = importlib.util.spec_from_file_location(name, changed)
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    setattr(package, module, loaded)


if __name__ == "__main__":
    plant(*sys.argv[1:4], Path(sys.argv[4]))
    sys.argv[1:] = sys.argv[5:]
    runpy.run_path(str(Path(__file__).with_name("child.py")), run_name="__main__")
