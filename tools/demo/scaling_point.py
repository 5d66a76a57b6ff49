"""One measurement in a process of its own: ``python -m linzoo.tools.demo.scaling_point '{"size": 512, ..}'``.

Prints one JSON line: CPU seconds and peak memory of one forward pass on one thread. It leaves when its
standard input closes, so that it never outlives the demo that started it.
"""

import json
import os
import sys
import threading
import time

from linzoo.diffusion.memory.free import mark, reset_mark


def main() -> None:
    threading.Thread(target=leave_with_parent, daemon=True).start()
    request = json.loads(sys.argv[1])
    print(json.dumps(measure(**request)))


def leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(3)


def measure(model: str, mixers: str, size: int) -> dict:
    """CPU seconds (the least of up to three, for passes under a second) and peak memory over the baseline "
    "in MB."""
    import timm
    import torch

    import linzoo.vision  # noqa: F401  registers the models

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = timm.create_model(model, mixers=mixers).eval()
    image = photograph(size)
    times = []
    with torch.inference_mode():
        network(image[:, :, :64, :64])  # libraries start, code paths load
        baseline = reset_mark()
        while not times or (sum(times) < 1 and len(times) < 3):
            began = time.process_time()
            network(image)
            times.append(time.process_time() - began)
    return {
        "size": size,
        "seconds": min(times),
        "passes": len(times),
        "megabytes": (mark() - baseline) / 1e6,
        "process_seconds": time.process_time(),
    }


def photograph(size: int):
    """scikit-image's retina (CC0, 1411 x 1411), resized to (1, 3, size, size), standardised."""
    import torch
    import torch.nn.functional as F

    from linzoo.tools.extras import need

    pixels = torch.from_numpy(need("skimage.data", "data").retina()).permute(2, 0, 1)[None].float()
    image = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return (image - image.mean()) / image.std()


if __name__ == "__main__":
    main()
