"""Runs that are killed while they write their steps down."""

import time


def steps_written(folder):
    file = folder / "steps.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


def kill_after(process, folder, step, delay):
    """SIGKILL ``delay`` seconds after the run has written down ``step``; returns how far it was."""
    while steps_written(folder) < step:
        assert process.is_alive(), "ended before it could be killed"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -9
    return steps_written(folder)
