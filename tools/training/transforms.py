"""timm's training transforms, mended for Pillow 13.

Posterising to 0 bits, which ``rand-m9-mstd0.5-inc1`` asks for now and then, gave a black picture in older
Pillows; Pillow 13 raises ValueError. Here it gives that black picture again, as the published recipes had it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from PIL.Image import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, posterize
from torchvision.transforms import Compose


def posterize_to_black(picture: Image, bits: int, **words: Any) -> Image:
    """timm's posterize; 0 bits give a black picture."""
    return picture.point(lambda _: 0) if bits < 1 else posterize(picture, bits, **words)


def train_transform(input_size: tuple[int, int, int], **words: Any) -> Callable | tuple[Callable, ...]:
    """timm's ``create_transform`` for training. Raises: ValueError for what timm does not know."""
    try:
        transform = create_transform(input_size, is_training=True, **words)
    except (AssertionError, KeyError, ValueError) as error:
        named = {"--aa": "auto_augment", "--train-crop-mode": "train_crop_mode"}
        named |= {"--train-interpolation": "interpolation"}
        given = ", ".join(f"{flag} {words.get(name)}" for flag, name in named.items())
        raise ValueError(f"timm makes no augmentation of {given}: {error!r}") from error
    mend(transform)
    return transform


def mend(transform: Any) -> None:
    """In place: every posterising operation within ``transform`` takes 0 bits."""
    for op in operations(transform):
        if op.aug_fn is posterize:
            op.aug_fn = posterize_to_black


def operations(transform: Any) -> Iterator[AugmentOp]:
    """The auto-augment operations within a transform, a composition, or what is separated for splits."""
    if isinstance(transform, AugmentOp):
        yield transform
        return
    parts = transform if isinstance(transform, list | tuple) else ()
    if isinstance(transform, Compose):
        parts = transform.transforms
    else:
        for name in ("ops", "policy"):  # RandAugment, AugMixAugment; AutoAugment
            parts = parts or getattr(transform, name, ())
    for part in parts:
        yield from operations(part)
