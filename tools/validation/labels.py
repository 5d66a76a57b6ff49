"""Labels beside the data set's own: which classes count, and ImageNet's reassessed labels."""

import json
import re
from pathlib import Path

from torch.utils.data import Dataset

IMAGENET_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def read_valid_labels(path: Path, classes: int) -> list[int]:
    """Class numbers, one a line, in the order of the data set's classes.

    Raises: FileNotFoundError; ValueError for what is not a number in range(classes), or is there twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--valid-labels must be a file, {path} is not there")
    labels = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        if not word.isdecimal() or int(word) >= classes or int(word) in labels:
            raise ValueError(
                f"--valid-labels: {path}:{number} must be a number from 0 to {classes - 1}, each once, "
                f"got {word!r}"
            )
        labels.append(int(word))
    if not labels:
        raise ValueError(f"--valid-labels: {path} must name at least one class")
    return labels


def real_labels(dataset: Dataset, source: str, topk: tuple[int, ...]):
    """timm's RealLabelsImagenet for the pictures of ``dataset``.

    Args:
        source: a json file with a list of labels for each validation picture, or "timm" for the packaged one.
    Raises: FileNotFoundError; ValueError when the pictures are not those of the labels.
    """
    from timm.data import RealLabelsImagenet

    if source != "timm" and not Path(source).is_file():
        raise FileNotFoundError(f"--real-labels must be a .json file or 'timm', {source} is not there")
    if not hasattr(dataset, "filename"):
        raise ValueError("--real-labels needs a folder of ImageNet's validation pictures, with their names")
    names = [dataset.filename(i, basename=True) for i in range(len(dataset))]
    strange = next((name for name in names if not IMAGENET_NAME.fullmatch(name)), None)
    if strange:
        raise ValueError(
            f"--real-labels: pictures must be called ILSVRC2012_val_00000001.JPEG, ..., got {strange}"
        )
    try:
        labels = RealLabelsImagenet(names, real_json=None if source == "timm" else source, topk=topk)
    except AssertionError as error:  # timm wants as many pictures as labels
        raise ValueError(
            f"--real-labels: {source} must have a list for each of the {len(names)} pictures "
            "(ImageNet's validation has 50,000)"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--real-labels: {source} must be a JSON list of lists: {error}") from error
    missing = next((name for name in names if name not in labels.real_labels), None)
    if missing:
        raise ValueError(f"--real-labels: {source} has no labels for {missing}")
    return labels
