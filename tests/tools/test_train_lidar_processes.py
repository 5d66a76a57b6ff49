"""LiDAR training in two processes (gloo), started as users start it.

Batch norm's statistics and the losses' numbers of objects are each process's own, so two processes equal one
that accumulates two steps, not one with a joined batch; with ``--sync-bn`` the statistics are joined.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from linzoo.pointcloud.layers import BatchNorm
from linzoo.tools.lidar.joined_norm import JoinedBatchNorm1d, join_batch_norms
from linzoo.tools.runs.plan import Plan, microbatches
from linzoo.tools.training.joined_norm import JoinedBatchNorm2d

from .lidar_runs import FRAMES, SCATTERFORMER, column, last, one_thread, small, start, words

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures(one_thread.__name__, small.__name__)

ROOT = Path(__file__).parents[2]
TORCHRUN = words("-m torch.distributed.run --standalone --nproc-per-node 2")
ACCELERATE = words("-m accelerate.commands.launch --cpu --num_processes 1 -m linzoo")
LINE = [*SCATTERFORMER, *FRAMES, *words("--paste Car=4 --rotate 45 --epochs 1 --scenes 4 --clip-grad 5")]


def launch(launcher, line):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "train", *line]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


def two(tmp_path, *more, name="two"):
    """``linzoo train`` in two processes, with the small scenes and detectors."""
    main = [*TORCHRUN, "-m", "tests.tools.lidar_runs"]
    return launch(main, [*LINE, *more, "--output", str(tmp_path), "--experiment", name])


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates_two_steps(tmp_path):
    """Losses, weights and the last validation in float32, 1e-5: the sums are in another order."""
    status, out, errors = two(tmp_path)
    assert status == 0, errors
    assert out.count("linzoo train: ") == 1 and errors.count("Train: [") == 2
    assert "2 process(es) on cpu, 2 frames an update" in errors
    one = start(tmp_path, *LINE, "--grad-accum-steps", "2", name="one")
    for name in ("loss", "heatmap", "box", "grad_norm"):
        assert column(tmp_path / "two", name) == pytest.approx(column(one.folder, name), rel=1e-4), name
    first, second = (last(tmp_path / name) for name in ("one", "two"))
    for name, _ in one.model.named_parameters():
        torch.testing.assert_close(
            second["state_dict"][name], first["state_dict"][name], rtol=1e-4, atol=1e-5, msg=name
        )
    assert len(second["ranks"]) == 2 and second["items"] == first["items"] == 2
    assert (tmp_path / "two" / "metrics.json").is_file()


@pytest.mark.slow
def test_two_processes_with_joined_batch_norms_train(tmp_path):
    status, _, errors = two(tmp_path, "--sync-bn", "--max-steps", "1", "--no-validation", name="joined")
    assert status == 0, errors
    assert len(column(tmp_path / "joined", "loss")) == 1


@pytest.mark.slow
def test_accelerate_starts_it(tmp_path):
    line = words("--detector scatterformer_small --backbone-kwargs layers=1 --dataset synthetic --scenes 1")
    line += words("-b 1 --device cpu --epochs 1 --no-validation --log-interval 1")
    status, out, errors = launch(ACCELERATE, [*line, "--output", str(tmp_path), "--experiment", "run"])
    assert status == 0, errors
    assert f"linzoo train: {tmp_path / 'run'}" in out and last(tmp_path / "run")["step"] == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_frames_of_one_with_the_joined_batch(world):
    plan = Plan(24, 6, seed=4)
    for update in range(8):  # two epochs
        items = plan.update(update)
        steps = 6 // world
        shares = [microbatches(items, rank, world, 1) for rank in range(world)]
        assert {len(share) for share in shares} == {steps}
        seen = [item for step in range(steps) for share in shares for item in share[step]]
        assert seen == items


# batch norm over all processes

ROWS, MAPS = "rows", "maps"
CASES = {
    "as many": (ROWS, [(5, 4), (4, 4)]),
    "one has none": (ROWS, [(6, 4), (0, 4)]),
    "one row in all": (ROWS, [(1, 4), (0, 4)]),
    "of length": (MAPS, [(2, 4, 5), (1, 4, 5)]),
}


def make_norm(kind):
    torch.manual_seed(0)
    norm = BatchNorm(4) if kind == ROWS else nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    nn.init.normal_(norm.weight)
    return norm


def draw(shapes):
    return [torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(shapes)]


def through(norm, x):
    """What goes through a norm, and the gradients of a probe of it."""
    x.requires_grad_()
    y = norm(x)
    (y * torch.linspace(-1, 2, 4).view(-1, *[1] * (x.dim() - 2)) * y).sum().backward()
    return {"y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, **norm.state_dict()}


def run_norms(rank, world, file):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    results = {}
    for name, (kind, shapes) in CASES.items():
        norm = make_norm(kind)
        join_batch_norms(norm)
        results[name] = through(norm, draw(shapes)[rank])
    torch.save(results, f"{file}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_joined_batch_norms_equal_one_over_all_rows(tmp_path, monkeypatch):
    file = tmp_path / "store"
    monkeypatch.syspath_prepend(ROOT)  # the processes look the tests up by name
    torch.multiprocessing.spawn(run_norms, (2, str(file)), nprocs=2)
    both = [torch.load(f"{file}.{rank}") for rank in range(2)]
    for name, (kind, shapes) in CASES.items():
        norm = make_norm(kind)
        one, results = through(norm, torch.cat(draw(shapes))), [each[name] for each in both]
        for part in ("y", "dx"):
            joined = torch.cat([result[part] for result in results])
            torch.testing.assert_close(joined, one[part], rtol=1e-4, atol=1e-5, msg=f"{name} {part}")
        torch.testing.assert_close(sum(r["dw"] for r in results), one["dw"], rtol=1e-4, atol=1e-5, msg=name)
        for key, value in norm.state_dict().items():
            for result in results:
                torch.testing.assert_close(result[key], value, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")


def test_every_batch_norm_of_a_detector_is_joined():
    from linzoo.pointcloud import create_detector

    for name in ("scatterformer_tiny", "lion_retnet_tiny", "scatterformer_nuscenes"):
        with torch.device("meta"):
            detector = create_detector(name)
        names = list(detector.state_dict())
        join_batch_norms(detector)
        kinds = {type(m) for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {JoinedBatchNorm1d, JoinedBatchNorm2d} and list(detector.state_dict()) == names


@pytest.mark.parametrize("name", ["scatterformer_tiny", "lion_retnet_tiny"])
def test_a_frame_with_nothing_in_it_reaches_every_parameter(name):
    """As averaging gradients over processes needs: none may be missing in one of them."""
    from linzoo.pointcloud import Labels, create_detector

    detector = create_detector(name)
    nothing = Labels(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    sum(detector.loss([torch.zeros(0, 4)], [nothing]).values()).backward()
    assert not [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
