"""``outcome``: what ranks returned of a case of ``parallel_child.py``, which is run once for all tests."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = Path(__file__).with_name("parallel_child.py")
MINUTES = 15


def outcome(case: str, tmp_path_factory) -> list[dict]:
    """One dict per rank. Fails when a rank did."""
    folder = run_once(tmp_path_factory.getbasetemp())
    ranks = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{case}.*.json"))]
    failed = [f"rank {number}: {rank['failed']}" for number, rank in enumerate(ranks) if "failed" in rank]
    assert ranks and not failed, "\n".join(failed) or f"no rank of {case} came back"
    return ranks


def run_once(base: Path) -> Path:
    """The folder of results. Workers of one test run share it: the first runs the cases, the others wait."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "parallel_cases"
    try:
        folder.mkdir()
    except FileExistsError:
        end = time.monotonic() + 60 * MINUTES
        while not (folder / "done").exists() and time.monotonic() < end:
            time.sleep(0.2)
        return folder
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(CHILD), str(folder)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * MINUTES)
    (folder / "done").touch()
    assert child.returncode == 0, child.stderr
    return folder
