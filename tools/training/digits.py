"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: training without a download."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..extras import need

HELD_OUT = 360
SPLIT_SEED = 0  # of the split, not of a run: every run is judged by the same held-out digits


def split_digits(held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Pixels (1797, 64) from 0 to 16, classes (1797,), and the indices of training and held-out digits.

    Every class is split in the same proportion. Raises: ImportError without scikit-learn.
    """
    datasets = need("sklearn.datasets", "data")
    split = need("sklearn.model_selection", "data").train_test_split
    pixels, labels = datasets.load_digits(return_X_y=True)
    train, rest = split(range(len(labels)), test_size=held_out, stratify=labels, random_state=seed)
    return pixels, labels, train, rest


class DigitsDataset(Dataset):
    """``--dataset digits``: the 1,437 training or the 360 held-out digits, as 8 x 8 pictures.

    Args:
        train: which part.
        mode: Pillow's mode of the pictures, "L" or "RGB".
    """

    def __init__(self, train: bool, mode: str = "L") -> None:
        pixels, labels, learnt, held_out = split_digits(HELD_OUT, SPLIT_SEED)
        chosen = learnt if train else held_out
        self.pixels = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        self.labels = labels[chosen].tolist()
        self.mode = mode
        self.class_to_idx = {str(digit): digit for digit in range(10)}
        self.transform: Callable | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple:
        picture = Image.fromarray(self.pixels[index]).convert(self.mode)
        return (picture if self.transform is None else self.transform(picture)), self.labels[index]
