"""Runs child.py on kernels with one line changed, to show that the suite would see it.

    TRITON_INTERPRET=1 python planted.py FOLDER '[[GROUP, CASE, MODULE, OLD, NEW], ...]' [OP]

OP local_attn has its kernels in linzoo.kernels.local_attn and its cases in local_attn_child.py.

Each fault has its own process, forked after torch is loaded. Prints a JSON list of [exit code, output].
"""

import importlib
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
OP = (*sys.argv, "linear_attn")[3]
CHILD = "child.py" if OP == "linear_attn" else f"{OP}_child.py"


def plant(module: str, old: str, new: str, folder: Path) -> None:
    """Loads linzoo.kernels.<op>.<module> with the first OLD of its source replaced by NEW."""
    package = importlib.import_module(f"linzoo.kernels.{OP}")
    source = Path(package.__file__).with_name(f"{module}.py").read_text()
    assert old in source, f"{old!r} is not in {module}.py"
    changed = folder / f"{module}.py"
    changed.write_text(source.replace(old, new, 1))
    name = f"{package.__name__}.{module}"
    spec = importlib.util.spec_from_file_location(name, changed)
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    setattr(package, module, loaded)


def outcome(folder: Path, group: str, case: str, *change: str) -> tuple[int, str]:
    """Exit code (negative: killed by that signal) and output of the child under one fault."""
    log = folder / "output.txt"
    pid = os.fork()
    if pid == 0:
        code = 70  # the fault could not be planted
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            plant(*change, folder)
            sys.argv = [CHILD, group, case]
            runpy.run_path(str(HERE / CHILD), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), log.read_text()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    importlib.import_module("linzoo.kernels")  # torch and all but the Triton files
    importlib.import_module("triton")
    print(json.dumps([outcome(Path(sys.argv[1]), *fault) for fault in json.loads(sys.argv[2])]))
