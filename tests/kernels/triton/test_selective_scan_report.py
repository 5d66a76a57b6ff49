"""The selective scan in ``linzoo kernel-report``: three kernels are compiled here, all by the command."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from linzoo.kernels.selective_scan import triton_parts
from linzoo.kernels.selective_scan.triton_tiles import tile_for
from linzoo.tools import compile_selective_scan, kernel_report
from linzoo.tools.compile_facts import ARCHS, source
from linzoo.tools.compile_selective_scan import MODELS, ROLES, Job, jobs, measure, record

TABLE = json.loads(compile_selective_scan.thresholds_path().read_text())
COMPILED = [
    Job("mamba", "bf16", "outputs", "sm_90"),
    Job("lion_mamba", "bf16", "adjoint_sums", "gfx942"),
    Job("lion_mamba", "fp32", "gradients", "sm_90"),
]


@pytest.mark.slow
def test_three_kernels_compile_within_the_limits():
    found = {job.name: kernel_report.violations(job, measure(job), TABLE) for job in COMPILED}
    assert found == {job.name: [] for job in COMPILED}


def test_the_table_holds_the_whole_list_within_the_limits_and_its_tiles_are_those_that_ship():
    assert list(TABLE["facts"]) == [job.name for job in jobs()]
    assert len(jobs()) == len(MODELS) * 2 * len(ROLES) * len(ARCHS)
    for job in jobs():
        facts = TABLE["facts"][job.name]
        tile = tile_for(job.role.removeprefix("adjoint_"), MODELS[job.model].states)
        assert facts["tile"] == tile.name, job.name
        assert kernel_report.violations(job, facts, TABLE) == [], job.name


def test_the_limits_are_those_of_the_other_kernels():
    other = json.loads(kernel_report.thresholds_path().read_text())
    assert {key: TABLE[key] for key in ("limits", "about")} == {
        key: other[key] for key in ("limits", "about")
    }


def test_sizes_leave_the_compiled_variant_as_it_is():
    for role in ROLES:
        launch = record(Job("lion_mamba", "bf16", role, "sm_90"))
        integers = [p for p in launch.kernel.params if p.name in triton_parts.INTEGERS]
        assert integers and all(p.do_not_specialize for p in integers)
        types = source(launch, amd=False).signature
        assert {types[p.name] for p in integers} == {"i32"}


def test_importing_the_op_imports_none_of_its_kernels():
    code = (
        "import sys, linzoo.kernels; own = [m for m in sys.modules if 'selective_scan.triton' in m];"
        "assert own == ['linzoo.kernels.selective_scan.triton_tiles'] and 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
