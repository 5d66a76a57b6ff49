"""Batches as functions of (seed, epoch, step): no matter who reads them, or where one begins."""

import random

import numpy as np
import pytest
import torch
from timm.data import FastCollateMixup

from linzoo.tools.training.batches import (
    BatchKey,
    DataError,
    EvalPlan,
    SeededBatches,
    TrainPlan,
    make_loader,
)
from linzoo.tools.training.seeding import apart, rng_state, seed_all, set_rng_state


class Noisy:
    """A data set whose samples are all chance, from each of the three generators."""

    def __init__(self, size=40):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == 999:
            raise OSError("cannot read picture 999")
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        return np.full((3, 4, 4), int(255 * noise[0]), np.uint8), index % 10, noise


def collate(samples):
    return [s[2] for s in samples], [s[1] for s in samples]


def epoch_of(plan, epoch, start=0, workers=0, seed=3):
    loader = make_loader(SeededBatches(Noisy(), collate, seed, 10), plan, workers, False)
    plan.set_epoch(epoch, start)
    return list(loader)


def test_batches_do_not_depend_on_the_number_of_workers():
    assert epoch_of(TrainPlan(40, 8, 3), 2, workers=2) == epoch_of(TrainPlan(40, 8, 3), 2)


def test_an_epoch_taken_up_in_the_middle_gives_the_rest_of_it():
    plan = TrainPlan(40, 8, 3)
    assert epoch_of(plan, 1, start=3) == epoch_of(plan, 1)[3:]
    assert len(epoch_of(plan, 1)) == len(plan) == 5


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    first = epoch_of(TrainPlan(40, 8, 3), 0)
    assert first != epoch_of(TrainPlan(40, 8, 3), 1)
    assert first != epoch_of(TrainPlan(40, 8, 4), 0)
    assert first != epoch_of(TrainPlan(40, 8, 3), 0, seed=4)


def test_an_epoch_has_every_picture_once():
    plan = TrainPlan(40, 8, 3)
    assert sorted(index for key in plan for _, index in key.items) == list(range(40))


def test_two_processes_take_together_what_one_takes_with_the_joined_batch():
    one = TrainPlan(40, 8, 3)
    two = [TrainPlan(40, 4, 3, rank, 2) for rank in range(2)]
    for plan in (one, *two):
        plan.set_epoch(5)
    for joined, *parts in zip(one, *two, strict=True):
        assert set(joined.items) == {item for part in parts for item in part.items}


def test_copies_of_repeated_augmentation_differ_and_go_to_different_processes():
    plans = [TrainPlan(512, 4, 0, rank, 2, repeats=2) for rank in range(2)]
    first, second = (next(iter(plan)) for plan in plans)
    assert [index for _, index in first.items] == [index for _, index in second.items]
    assert not {place for place, _ in first.items} & {place for place, _ in second.items}
    batches = SeededBatches(Noisy(512), collate, 0, 10)
    assert batches[first] != batches[second]


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (2, 3)])
def test_validation_has_every_picture_once_over_all_processes(size, world):
    plans = [EvalPlan(size, 4, rank, world) for rank in range(world)]
    assert sorted(i for plan in plans for key in plan for _, i in key.items) == list(range(size))


def test_reading_leaves_the_generators_alone():
    torch.rand(1), np.random.rand(), random.random()
    before = rng_state()
    assert epoch_of(TrainPlan(40, 8, 3), 0)
    after = rng_state()
    assert str(before) == str(after)


def test_a_generator_state_comes_back_after_saving(tmp_path):
    seed_all((1, 2, 3))
    np.random.randn()  # leaves half of a pair behind
    torch.save(rng_state(), tmp_path / "state")
    drawn = [random.random(), np.random.randn(), np.random.rand(), torch.rand(2).tolist()]
    seed_all((4,))
    set_rng_state(torch.load(tmp_path / "state", weights_only=True))
    assert drawn == [random.random(), np.random.randn(), np.random.rand(), torch.rand(2).tolist()]


def test_what_is_drawn_apart_depends_on_every_part_of_the_key():
    def drawn(*key):
        with apart(*key):
            return random.random(), np.random.rand(), torch.rand(()).item()

    keys = [(1, 2, 3), (1, 3, 2), (1, 2, 4), (2, 2, 3), (1, 2, 3, 0)]
    values = [drawn(*key) for key in keys]
    assert drawn(1, 2, 3) == values[0]
    for column in zip(*values, strict=True):
        assert len(set(column)) == len(keys)


def test_mixing_in_collation_is_seeded_and_can_be_off():
    mixup = FastCollateMixup(mixup_alpha=0.8, num_classes=10)
    batches = SeededBatches(Noisy(), mixup, 0, 10)
    items = tuple((i, i) for i in range(4))
    mixed, again = (batches[BatchKey(0, items, True)] for _ in range(2))
    other, plain = batches[BatchKey(1, items, True)], batches[BatchKey(0, items, False)]
    assert torch.equal(mixed[1], again[1]) and torch.equal(mixed[0], again[0])
    assert not torch.equal(mixed[1], other[1])
    assert (plain[1].max(1).values > 0.9).all() and (mixed[1].max(1).values < 0.9).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_error_that_names_it(workers):
    batches = SeededBatches(Noisy(1000), collate, 0, 10)
    loader = make_loader(batches, EvalPlan(1000, 500), workers, False)
    with pytest.raises(DataError, match=r"^cannot read picture 999$"):
        list(loader)


def test_a_class_that_the_model_does_not_have_is_refused():
    batches = SeededBatches(Noisy(), collate, 0, 5)
    with pytest.raises(DataError, match=r"sample 5 has class 5, must be 0 to 4"):
        list(make_loader(batches, EvalPlan(40, 4), 0, False))


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(ValueError, match=r"--batch-size must be at most the 20 pictures .* got 21"):
        TrainPlan(40, 21, 0, 0, 2)
