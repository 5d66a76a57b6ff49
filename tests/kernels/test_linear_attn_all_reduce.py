"""A state summed over processes is the state of all tokens."""

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("all_reduce_child.py")


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.all_cases), 3])
def test_processes_with_parts_of_the_tokens_equal_one_process_with_all_gradients_too(world, tmp_path):
    command = [sys.executable, str(CHILD)]
    children = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    try:
        errors = [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * world, "\n".join(errors)
