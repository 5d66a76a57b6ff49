"""The sparse convolutions and segment sums in ``linzoo kernel-report``: four kernels are compiled here."""

import json

import pytest
import torch

pytest.importorskip("triton")

from linzoo.kernels.segment_ops import triton_launch as segments
from linzoo.kernels.sparse_conv.triton_kernels import INTEGERS
from linzoo.kernels.sparse_conv.triton_tiles import tile_for
from linzoo.tools import compile_sparse_conv, kernel_report
from linzoo.tools.compile_facts import ARCHS, DTYPES, source
from linzoo.tools.compile_sparse_conv import Job, jobs, measure, record

TABLE = json.loads(compile_sparse_conv.thresholds_path().read_text())
LION, SCATTERFORMER = ("lion_conv", (3, 3, 3), 64, 64), ("scatterformer_conv", (1, 1, 13), 32, 32)
COMPILED = [
    Job(*LION, "bf16", "forward", "sm_90"),
    Job(*LION, "fp32", "weight_gradient", "gfx942"),
    Job(*SCATTERFORMER, "bf16", "depthwise_forward", "sm_80"),
    Job("segment_sum", (1, 1, 1), 128, 128, "fp32", "segment_sum", "sm_90"),
]
KERNELS = {
    "forward": "conv",
    "input_gradient": "conv",
    "weight_gradient": "weight_gradient",
    "depthwise_forward": "depthwise",
    "depthwise_weight_gradient": "depthwise_weight_gradient",
}


@pytest.mark.slow
def test_four_kernels_compile_within_the_limits():
    found = {job.name: kernel_report.violations(job, measure(job), TABLE) for job in COMPILED}
    assert found == {job.name: [] for job in COMPILED}


def shipped_tile(job: Job) -> str:
    if job.model == "segment_sum":
        return segments.TILE.name
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job.dtype]
    depth = 1 if job.role.startswith("depthwise") else job.depth
    return tile_for(KERNELS[job.role], job.columns, depth, dtype, job.arch).name


def test_the_table_holds_the_whole_list_within_the_limits_and_its_tiles_are_those_that_ship():
    assert list(TABLE["facts"]) == [job.name for job in jobs()]
    assert len(jobs()) == (2 * 3 + 2 * 2 + 2) * len(DTYPES) * len(ARCHS)
    for job in jobs():
        facts = TABLE["facts"][job.name]
        assert facts["tile"] == shipped_tile(job), job.name
        assert kernel_report.violations(job, facts, TABLE) == [], job.name


def test_tensor_cores_are_asked_of_kernels_with_matrix_products_only():
    convolution, sums = COMPILED[0], COMPILED[2]
    for job, phrases in ((convolution, ["tensor_cores must be at least 1 in bf16, got 0"]), (sums, [])):
        facts = TABLE["facts"][job.name] | {"tensor_cores": 0}
        assert kernel_report.violations(job, facts, TABLE) == phrases


def test_the_limits_are_those_of_the_other_kernels():
    other = json.loads(kernel_report.thresholds_path().read_text())
    assert {key: TABLE[key] for key in ("limits", "about")} == {
        key: other[key] for key in ("limits", "about")
    }


def test_numbers_of_rows_and_splits_leave_the_compiled_variant_as_it_is():
    for job in jobs(archs=("sm_90",), dtypes=("bf16",)):
        launch = record(job)
        integers = [p for p in launch.kernel.params if p.name in INTEGERS]
        assert bool(integers) == (job.model != "segment_sum")
        assert all(p.do_not_specialize for p in integers)
        types = source(launch, amd=False).signature
        assert all(types[p.name] == "i32" for p in integers)
