"""What the points of the street scenes tell of headings, found without a detector.

A small network (one MLP for all points, the largest over the points, a readout of cos and sin) sees the
points about a road user whose place is known, in the scenes that a training of ``full`` draws, each once.
A detector has to find the place besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ...pointcloud.boxes import wrap_angle
from ...pointcloud.data.shapes import CLASSES
from ...pointcloud.records import Frame
from ..demo.machine import commit, processor, versions
from ..files import write_rows
from .detectors import SEEDS
from .record import RESULTS, TEST_SCENES

ROWS = "street-scenes-headings.jsonl"
COMMAND = "python -m linzoo.tools.street_scenes headings"
SCENES = 3200  # of the split "train", which 400 updates of 8 draw
OFFSETS = (0.0, 0.32)  # metres by which the known place is off along x and y, at most
POINTS = 64  # of an object; the same ones again where there are fewer
MARGIN = 0.05  # metres about the circle around a box
GROUND = 0.08  # metres above a box's bottom up to which points are the street's
BATCH, RATE = 32, 2e-3


class Crops:
    """Objects of one class. points: (K, POINTS, 4) x, y, z from the box's centre, intensity.  yaw: (K,)."""

    def __init__(self, points: list[Tensor], yaw: list[Tensor]) -> None:
        self.points, self.yaw = torch.stack(points), torch.stack(yaw)

    def __len__(self) -> int:
        return len(self.yaw)


def gather(frames: Iterable[Frame]) -> dict[str, Crops]:
    """The objects of all frames that any point lies about, by class. A circle tells no heading."""
    chance = torch.Generator().manual_seed(0)
    points: dict[str, list] = {name: [] for name in CLASSES}
    yaws: dict[str, list] = {name: [] for name in CLASSES}
    for frame in frames:
        for box, kind in zip(frame.labels.boxes, frame.labels.classes.tolist(), strict=True):
            apart = frame.points[:, :2] - box[:2]
            near = apart.norm(dim=1) < box[3:5].norm() / 2 + MARGIN
            near &= frame.points[:, 2] > box[2] - box[5] / 2 + GROUND
            held = frame.points[near]
            if len(held):
                order = torch.randperm(len(held), generator=chance)
                held = held[order.repeat(math.ceil(POINTS / len(held)))[:POINTS]]
                points[CLASSES[kind]].append(torch.cat((held[:, :3] - box[:3], held[:, 3:]), dim=1))
                yaws[CLASSES[kind]].append(box[6])
    return {name: Crops(points[name], yaws[name]) for name in CLASSES if yaws[name]}


class Reader(nn.Module):
    """(K, P, 4) -> cos and sin of the yaw (K, 2)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 64, 128)
        layers = [self.layer(a, b) for a, b in pairwise(widths)]
        self.points = nn.Sequential(*layers)
        self.readout = nn.Sequential(self.layer(128, 128), nn.Linear(128, 2))

    @staticmethod
    def layer(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())

    def forward(self, points: Tensor) -> Tensor:
        rows = self.points(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        return self.readout(rows.amax(1))


def moved(points: Tensor, offset: float, chance: torch.Generator) -> Tensor:
    """Each object as if its place were off by up to ``offset`` metres along x and y."""
    off = (2 * torch.rand(len(points), 1, 2, generator=chance) - 1) * offset
    return torch.cat((points[..., :2] + off, points[..., 2:]), dim=2)


def learn(crops: Crops, offset: float, seed: int) -> Reader:
    """One pass over the objects under one cycle, with the loss that a CenterPoint head has on a yaw."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    reader = Reader()
    updates = max(len(crops) // BATCH, 1)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates + 1, pct_start=0.4)
    order = torch.randperm(len(crops), generator=chance)
    for rows in order.split(BATCH)[:updates]:
        yaw = crops.yaw[rows]
        said = reader(moved(crops.points[rows], offset, chance))
        (said - torch.stack((yaw.cos(), yaw.sin()), dim=1)).abs().sum(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return reader.eval()


@torch.no_grad()
def errors(reader: Reader, crops: Crops, offset: float) -> dict[str, float]:
    """Mean absolute degrees modulo a half and a whole turn."""
    said = reader(moved(crops.points, offset, torch.Generator().manual_seed(0)))
    off = torch.atan2(said[:, 1], said[:, 0]) - crops.yaw
    half, whole = (wrap_angle(off, period).abs().rad2deg() for period in (math.pi, 2 * math.pi))
    return {"yaw_error_pi": round(half.mean().item(), 1), "yaw_error_2pi": round(whole.mean().item(), 1)}


def record_headings(results: Path = RESULTS) -> None:
    """Replace the recorded rows: every class, offset and seed."""
    from ...pointcloud.data.synthetic import SyntheticScenes

    known, unseen = (
        gather(frames[i] for i in range(len(frames)))
        for frames in (SyntheticScenes("train", SCENES), SyntheticScenes("test", TEST_SCENES))
    )
    made = {"scenes": SCENES, "test_scenes": TEST_SCENES, "on": processor(), "command": COMMAND}
    made |= {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}", **versions()}
    rows = []
    for name in [name for name in CLASSES if name in known and name in unseen]:
        for offset in OFFSETS:
            for seed in SEEDS:
                began = time.process_time()
                reader = learn(known[name], offset, seed)
                row = {"class": name, "offset": offset, "seed": seed, "objects": len(known[name])}
                row |= {"seconds": round(time.process_time() - began, 1)}
                rows.append(row | errors(reader, unseen[name], offset) | made)
    write_rows(results / ROWS, rows)
