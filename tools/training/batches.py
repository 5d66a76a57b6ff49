"""Batches whose content follows from (seed, epoch, step) alone, whoever reads them and however many.

A plan says which pictures make each batch of an epoch; ``SeededBatches`` makes a batch from what the plan
says; ``Checked`` turns what went wrong in a reading process into one error here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.mixup import Mixup
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from .seeding import Use, apart, seed_all


@dataclass(frozen=True, slots=True)
class BatchKey:
    """One batch.

    Args:
        items: (place in the epoch's order over all processes, index in the data set) of each picture.
        mixed: whether mixup and cutmix are on.
    """

    epoch: int
    items: tuple[tuple[int, int], ...]
    mixed: bool = False


class Plan(Protocol):
    def set_epoch(self, epoch: int, start: int = 0) -> None: ...
    def __iter__(self) -> Iterator[BatchKey]: ...
    def __len__(self) -> int: ...


class TrainPlan(Sampler[BatchKey]):
    """An epoch's shuffled batches, this process's part; the last, incomplete one is left out.

    K processes with batches of B take, in every step, the pictures of one process with batches of K B.

    Args:
        size: pictures in the data set.
        repeats: copies of each picture in the order, for repeated augmentation; 0 for none.
        mixup_off_epoch: no mixing from this epoch on; 0: always.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeats: float = 0,
        mixup_off_epoch: int = 0,
    ) -> None:
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.mixup_off_epoch = mixup_off_epoch
        self.epoch, self.start = 0, 0
        data = range(size)
        if repeats:
            self.order: Sampler[int] = RepeatAugSampler(
                data, num_replicas=world, rank=rank, num_repeats=repeats
            )
        else:
            self.order = DistributedSampler(data, num_replicas=world, rank=rank)
        if len(self) == 0:
            raise ValueError(
                f"--batch-size must be at most the {len(self.order)} pictures a process has in an epoch, "
                f"got {batch_size}"
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """What the next pass gives: ``epoch``, from batch ``start`` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[BatchKey]:
        self.order.set_epoch(self.seed + self.epoch)
        indices = list(self.order)
        mixed = not self.mixup_off_epoch or self.epoch < self.mixup_off_epoch
        for step in range(self.start, len(self)):
            local = range(step * self.batch_size, (step + 1) * self.batch_size)
            yield BatchKey(self.epoch, tuple((i * self.world + self.rank, indices[i]) for i in local), mixed)


class EvalPlan(Sampler[BatchKey]):
    """Every picture once over all processes, none twice: their number of batches may differ."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        mine = range(rank, size, world)
        self.batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Validation is the same in every epoch."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchKey]:
        return (BatchKey(0, tuple((i, i) for i in batch)) for batch in self.batches)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What a reading process hands over in place of a batch that it could not make."""

    reason: str


class DataError(OSError):
    """A picture cannot be read, or does not fit the model; the message names it."""

    @classmethod
    def without_traceback(cls, error: "DataError") -> "DataError":
        """``error`` from a reading process: torch puts that process's traceback into the message."""
        return cls(str(error).strip().splitlines()[-1].rpartition("DataError: ")[2])


class SeededBatches(Dataset):
    """Batches by their keys, augmented and put together under seeds of their own.

    Args:
        dataset: (picture, class) by index.
        collate: list of samples -> (pictures, classes).
        num_classes: a class outside of range(num_classes) is an error.
    """

    def __init__(
        self, dataset: Dataset, collate: Callable[[list], Sequence[Any]], seed: int, num_classes: int
    ) -> None:
        self.dataset, self.collate, self.seed, self.num_classes = dataset, collate, seed, num_classes

    def __getitem__(self, key: BatchKey) -> Sequence[Any] | Unreadable:
        with apart(self.seed, Use.COLLATE, key.epoch, key.items[0][0]):
            try:
                samples = [self.sample(key.epoch, *item) for item in key.items]
                seed_all((self.seed, Use.COLLATE, key.epoch, key.items[0][0]))
                if isinstance(self.collate, Mixup):
                    self.collate.mixup_enabled = key.mixed
                return self.collate(samples)
            except (OSError, ValueError, SyntaxError) as error:  # Pillow: SyntaxError for some broken PNGs
                return Unreadable(str(error) or type(error).__name__)

    def sample(self, epoch: int, place: int, index: int) -> tuple:
        seed_all((self.seed, Use.SAMPLE, epoch, place))
        sample = self.dataset[index]
        target = sample[1]
        if isinstance(target, int) and not 0 <= target < self.num_classes:
            raise ValueError(
                f"sample {index} has class {target}, must be 0 to {self.num_classes - 1} (--num-classes)"
            )
        return sample


class Checked:
    """A DataLoader whose faults arrive as ``DataError``, with what timm's PrefetchLoader wants of one."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.sampler, self.dataset = loader.sampler, loader.dataset
        self.collate_fn = loader.dataset.collate

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in self.loader:
                if isinstance(batch, Unreadable):
                    raise DataError(batch.reason)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(f"a reading process ended: {str(error).splitlines()[0]}") from error


def make_loader(batches: SeededBatches, plan: Sampler[BatchKey], workers: int, pin_memory: bool) -> Checked:
    """A loader of whole batches; it draws nothing from the process's generators."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    return Checked(loader)
