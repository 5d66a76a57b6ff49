"""``python -m linzoo.tools.demo.detection_record``: measures what the demo's detection part only shows.

Replaces the rows of ``tools/results/detection-backbone.jsonl``.
"""

import json
from datetime import UTC, datetime

from ..files import write_rows
from .detection import POINT, RECORDED, point_request
from .machine import commit, processor, versions
from .worker import run_worker

POINTS = (("published", 1600, 2560), ("softmax", 800, 1280))


def main() -> None:
    about = {
        "command": "python -m linzoo.tools.demo.detection_record",
        "device": processor(),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        **versions(),
    }
    rows = []
    for point in POINTS:
        measured = run_worker(POINT, point_request("ravlt_tiny", *point))
        rows.append({"model": "ravlt_tiny", **measured, **about})
        print(json.dumps(rows[-1]), flush=True)
    write_rows(RECORDED, rows)


if __name__ == "__main__":
    main()
