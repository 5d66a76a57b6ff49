"""Starting the interpreter suites' children, and what their output must be; see test_interpreter.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FAULTS_LEFT_OUT = 4  # of five, by default; --all-cases plants all


def run(script: str, *args: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)


def passed(script: str, groups: str, *cases: str) -> int:
    """How many cases of the groups, set apart by commas, passed.

    Raises: AssertionError when one did not, or the child died.
    """
    child = run(script, groups, *cases)
    failed = [line for line in child.stdout.splitlines() if not line.startswith("ok ")]
    assert child.returncode == 0, "\n".join([f"exit code {child.returncode}", *failed, child.stderr[-6000:]])
    wanted = tuple(f"ok {group} " for group in groups.split(","))
    return sum(line.startswith(wanted) for line in child.stdout.splitlines())


def outcomes(folder: Path, faults: list, op: str) -> list[tuple[int, str]]:
    """Exit code and output of the child under each fault."""
    parent = run("planted.py", str(folder), json.dumps(faults), op)
    assert parent.returncode == 0, parent.stderr
    return json.loads(parent.stdout)


def check_planted(faults: list, op: str, folder: Path, config) -> None:
    """Every fault makes its case fail, by its figures or by a signal.

    faults: (group, case, module, line, what it is changed to).
    """
    if not config.getoption("--all-cases"):
        faults = faults[:: FAULTS_LEFT_OUT + 1]
    found = outcomes(folder, faults, op)
    seen = [
        code < 0 or (code == 1 and f"FAIL {fault[0]} {fault[1]}: " in text)
        for fault, (code, text) in zip(faults, found, strict=True)
    ]
    missed = [(fault, out) for fault, out, ok in zip(faults, found, seen, strict=True) if not ok]
    assert not missed, missed
