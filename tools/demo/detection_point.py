"""One measurement in a process of its own: the backbone of a detector on one picture, as JSON on one line.

``python -m linzoo.tools.demo.detection_point '{"mixers": "linear", "height": 800, ...}'``; it leaves when
its standard input closes, so that it never outlives the demo that started it.
"""

import json
import sys
import threading
import time

from linzoo.diffusion.memory.free import mark, reset_mark

from .scaling_point import leave_with_parent, photograph


def main() -> None:
    threading.Thread(target=leave_with_parent, daemon=True).start()
    request = json.loads(sys.argv[1])
    print(json.dumps(measure(**request)))


def measure(model: str, mixers: str, height: int, width: int) -> dict:
    """CPU seconds of one pass on one thread, peak memory over the baseline in MB, and the maps' sizes.

    Args:
        mixers: "linear", "softmax", or "published" for what the authors' detectors have.
    """
    import timm
    import torch

    import linzoo.vision  # noqa: F401  registers the models

    torch.set_num_threads(1)
    torch.manual_seed(0)
    changed = {} if mixers == "published" else {"mixers": mixers}
    backbone = timm.create_model(model, features_only=True, **changed).eval()
    image = photograph(max(height, width))[..., :height, :width].contiguous()
    with torch.inference_mode():
        backbone(image[:, :, :64, :64])  # libraries start, code paths load
        baseline = reset_mark()
        began = time.process_time()
        maps = backbone(image)
        seconds = time.process_time() - began
    return {
        "mixers": mixers,
        "height": height,
        "width": width,
        "seconds": seconds,
        "megabytes": (mark() - baseline) / 1e6,
        "maps": [list(y.shape[1:]) for y in maps],
        "process_seconds": time.process_time(),
    }


if __name__ == "__main__":
    main()
