"""Shared fixtures: seed, threads, offline hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing may download at test time
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--all-cases", action="store_true", help="full matrices where a sample is the default")


def pytest_collection_modifyitems(config, items):
    """Cases marked ``all_cases`` count as deselected, unless asked for."""
    if config.getoption("--all-cases"):
        return
    chosen, left = [], []
    for item in items:
        (left if item.get_closest_marker("all_cases") else chosen).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
