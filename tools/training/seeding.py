"""Random numbers as functions of what they are for, so that a run can be taken up at any step.

Pictures, batches and mixing draw from generators seeded by (seed, use, epoch, place): neither the number of
reading processes nor what was drawn before has any influence. Dropout and drop path draw from the process's
own generators, whose states are in the checkpoint.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Use(IntEnum):
    """What the numbers are for; part of the seed, so that no two uses share theirs."""

    SAMPLE = 0  # one picture's augmentation
    COLLATE = 1  # mixing while a batch is put together
    ERASE = 2  # random erasing on the device
    MIX = 3  # mixing on the device
    MODEL = 4  # initial weights, and what the model draws while training


def seed_all(key: Sequence[int], device: torch.device | None = None) -> None:
    """Seed Python's, numpy's and torch's generators (the CPU's, and ``device``'s if given) by ints >= 0."""
    words = np.random.SeedSequence((len(key), *key)).generate_state(6)  # it takes (1,) and (1, 0) for one
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:4])
    number = int(words[4]) << 31 | int(words[5])
    torch.default_generator.manual_seed(number)  # torch.manual_seed would wake every device
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def rng_state(device: torch.device | None = None) -> dict:
    """The generators' states in types that ``torch.load(weights_only=True)`` reads."""
    words = np.random.get_state(legacy=False)
    state = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(words["state"]["key"].astype(np.int64)),
            "pos": int(words["state"]["pos"]),
            "has_gauss": int(words["has_gauss"]),
            "gauss": float(words["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if device is not None and device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_rng_state(state: dict, device: torch.device | None = None) -> None:
    """The opposite of ``rng_state``."""
    random.setstate(state["python"])
    words = state["numpy"]
    inner = {"key": words["key"].numpy().astype(np.uint32), "pos": words["pos"]}
    np.random.set_state(
        {"bit_generator": "MT19937", "state": inner, "has_gauss": words["has_gauss"], "gauss": words["gauss"]}
    )
    torch.set_rng_state(state["torch"])
    if device is not None and device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], device)


@contextmanager
def apart(*key: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, generators seeded by ``key``; afterwards, what they were before."""
    before = rng_state(device)
    seed_all(key, device)
    try:
        yield
    finally:
        set_rng_state(before, device)
