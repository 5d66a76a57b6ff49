"""Shared fixtures: seed, threads, offline hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing may download at test time

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
