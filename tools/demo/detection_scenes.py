"""Scenes with known boxes: cut-outs of photographs on textures, from scikit-image (CC0, public domain)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..extras import need

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = ("cat", "cup", "astronaut")
CUTS = {  # photograph and the rows and columns of what it shows
    "cat": ("chelsea", slice(10, 290), slice(60, 400)),
    "cup": ("coffee", slice(60, 330), slice(130, 470)),
    "astronaut": ("astronaut", slice(0, 210), slice(130, 310)),
}
SEEN, UNSEEN = ("brick", "grass"), ("gravel",)  # textures of training and of testing
PLACES = 20  # tries to find room for an object


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture (side, side, 3) uint8, its boxes (n, 4) float32 as x0, y0, x1, y1, and their classes (n,)."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class Scenes:
    """Scenes of ``side`` pixels with one to ``most`` objects; a number always makes the same scene."""

    def __init__(self, side: int, textures: tuple[str, ...], most: int = 3) -> None:
        data = need("skimage.data", "data")
        self.side, self.most = side, most
        self.textures = [np.repeat(getattr(data, name)()[..., None], 3, axis=2) for name in textures]
        self.cuts = [getattr(data, photo)()[rows, columns] for photo, rows, columns in CUTS.values()]

    def __getitem__(self, number: tuple[int, ...]) -> Scene:
        rng = np.random.default_rng(number)
        texture = self.textures[rng.integers(len(self.textures))]
        y, x = rng.integers(0, np.array(texture.shape[:2]) - self.side)
        pixels = texture[y : y + self.side, x : x + self.side].copy()
        boxes: list[list[int]] = []
        labels = []
        for _ in range(rng.integers(1, self.most + 1)):
            label = int(rng.integers(len(CLASSES)))
            box = self.place(rng, label, boxes)
            if box is not None:
                self.paste(rng, pixels, label, box)
                boxes.append(box)
                labels.append(label)
        return Scene(pixels, np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(labels))

    def place(self, rng: np.random.Generator, label: int, taken: list[list[int]]) -> list[int] | None:
        """A box for an object of class ``label`` that overlaps none of ``taken``; None: no room."""
        shape = self.cuts[label].shape
        for _ in range(PLACES):
            width = int(rng.uniform(0.28, 0.56) * self.side)
            height = min(round(width * shape[0] / shape[1]), self.side)
            x0, y0 = (int(rng.integers(0, self.side - size + 1)) for size in (width, height))
            x1, y1 = x0 + width, y0 + height
            if all(x0 >= t[2] or x1 <= t[0] or y0 >= t[3] or y1 <= t[1] for t in taken):
                return [x0, y0, x1, y1]
        return None

    def paste(self, rng: np.random.Generator, pixels: np.ndarray, label: int, box: list[int]) -> None:
        """An ellipse of the photograph into the box, mirrored and brightened or darkened by chance."""
        from PIL import Image

        x0, y0, x1, y1 = box
        height, width = y1 - y0, x1 - x0
        cut = Image.fromarray(self.cuts[label]).resize((width, height), Image.Resampling.BILINEAR)
        cut = np.asarray(cut)[:, :: rng.choice((-1, 1))]
        rows, columns = np.ogrid[:height, :width]
        inside = ((rows + 0.5) / height - 0.5) ** 2 + ((columns + 0.5) / width - 0.5) ** 2 <= 0.25
        pixels[y0:y1, x0:x1][inside] = np.clip(cut[inside] * rng.uniform(0.7, 1.3), 0, 255)


def as_batch(scenes: list[Scene], preprocessor: dict) -> tuple[Tensor, list]:
    """Scenes as mmdetection takes them: pictures (B, 3, H, W), standardised, and their ``DetDataSample``s."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    mean, deviation = (torch.tensor(preprocessor[key]).view(3, 1, 1) for key in ("mean", "std"))
    images, samples = [], []
    for scene in scenes:
        images.append((torch.from_numpy(scene.pixels).permute(2, 0, 1).float() - mean) / deviation)
        shape = scene.pixels.shape[:2]
        sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
        sample = DetDataSample(metainfo={**sizes, "scale_factor": (1, 1)})
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(scene.boxes), labels=torch.from_numpy(scene.labels)
        )
        samples.append(sample)
    return torch.stack(images), samples
