"""A measurement in a process of its own, so that its peak memory and first calls are its own too."""

from __future__ import annotations

import json
import subprocess
import sys

from .context import Context, Progress


def kept_point(context: Context, key: str, label: str, unit: str, module: str, request: dict) -> dict:
    """What an earlier run has measured under ``key``, or what ``module`` measures now.

    label, unit: of the progress that is shown meanwhile.
    Returns: with ``seconds`` and ``megabytes``.
    """
    point = context.store.get(key)
    if point is None:
        bar = Progress(label, 1, unit=unit)
        point = run_worker(module, request)
        bar.close(f"{point['seconds']:.1f} s, {point['megabytes']:.0f} MB")
        context.store.put(key, point)
    return point


def run_worker(module: str, request: dict) -> dict:
    """Run ``python -m module REQUEST`` and return the JSON of its last line; it ends when this process ends.

    Raises: RuntimeError with the worker's last words when it fails.
    """
    command = [sys.executable, "-m", module, json.dumps(request)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            lines = process.stdout.read().splitlines()  # its standard input stays open: it leaves when we do
        except BaseException:
            process.kill()
            raise
        status = process.wait()
    if status or not lines:
        last = lines[-1] if lines else "no output"
        raise RuntimeError(f"{module} {json.dumps(request)} ended with status {status}: {last}")
    return json.loads(lines[-1])
