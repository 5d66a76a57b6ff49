"""A COCO-format data set written on the spot: coffee cups and cats of CC0 photographs on CC0 backgrounds.

Two cut-outs (ellipses of scikit-image's ``chelsea`` and ``coffee``) are scaled and pasted, each whole, on
pieces of ``brick``, ``grass`` and ``gravel``; boxes and masks are exact, being what was pasted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

CLASSES = ("cat", "cup")
CUTS = {"cat": (10, 60, 290, 400), "cup": (60, 130, 330, 470)}  # y0, x0, y1, x1 of what the photograph shows
SOURCES = {"cat": data.chelsea, "cup": data.coffee}
BACKGROUNDS = (data.brick, data.grass, data.gravel)


@dataclass(frozen=True)
class CocoSet:
    root: Path
    annotations: Path
    images: Path
    content: dict


def write(
    root: Path, count: int = 4, side: int = 96, objects: int = 2, seed: int = 0, content: dict | None = None
) -> CocoSet:
    """``count`` pictures of ``side`` x ``side`` pixels with ``objects`` each, and ``annotations.json``.

    Args:
        content: annotations to write instead of the right ones.
    """
    rng = np.random.default_rng(seed)
    images = root / "images"
    images.mkdir(parents=True)
    found = {
        "info": {"description": "cut-outs of CC0 photographs"},
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    for number in range(1, count + 1):
        picture = background(rng, side)
        for slot in range(objects):
            category = int(rng.integers(len(CLASSES)))
            mask = paste(rng, picture, CLASSES[category], slot, objects)
            found["annotations"].append(annotation(mask, number, len(found["annotations"]) + 1, category + 1))
        name = f"{number:03}.png"
        Image.fromarray(picture).save(images / name)
        found["images"].append({"id": number, "file_name": name, "width": side, "height": side})
    path = root / "annotations.json"
    path.write_text(json.dumps(found if content is None else content))
    return CocoSet(root, path, images, found)


def background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A piece of a texture, (side, side, 3) uint8."""
    texture = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]()
    y, x = rng.integers(0, np.array(texture.shape[:2]) - side)
    return np.repeat(texture[y : y + side, x : x + side, None], 3, axis=2)


def paste(rng: np.random.Generator, picture: np.ndarray, name: str, slot: int, slots: int) -> np.ndarray:
    """Puts an ellipse of the photograph into column ``slot`` of ``slots``; returns the mask, (H, W) bool."""
    side = picture.shape[0]
    y0, x0, y1, x1 = CUTS[name]
    height, width = (int(rng.uniform(0.6, 0.9) * side / slots) for _ in range(2))
    cut = Image.fromarray(SOURCES[name]()[y0:y1, x0:x1]).resize((width, height))
    top = int(rng.integers(0, side - height + 1))
    left = slot * side // slots + int(rng.integers(0, side // slots - width + 1))
    ys, xs = np.mgrid[:height, :width]
    ellipse = ((ys + 0.5) / height - 0.5) ** 2 + ((xs + 0.5) / width - 0.5) ** 2 <= 0.25
    mask = np.zeros(picture.shape[:2], bool)
    mask[top : top + height, left : left + width] = ellipse
    picture[mask] = np.asarray(cut)[ellipse]
    return mask


def annotation(mask: np.ndarray, image: int, number: int, category: int) -> dict:
    """COCO's record of an object: box x, y, w, h and an uncompressed run-length mask (columns first)."""
    ys, xs = np.nonzero(mask)
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
        "area": int(mask.sum()),
        "segmentation": {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs},
        "iscrowd": 0,
    }
