"""``python -m linzoo.tools.demo.detection_record``: measures what the demo's detection part only shows.

Replaces the rows of ``tools/results/detection-backbone.jsonl``.
"""

import json
from datetime import UTC, datetime

from ..files import write_atomic
from .detection import RECORDED, run_point
from .machine import commit, processor, versions

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
        rows.append({"model": "ravlt_tiny", **run_point("ravlt_tiny", *point), **about})
        print(json.dumps(rows[-1]), flush=True)
    write_atomic(RECORDED, "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
