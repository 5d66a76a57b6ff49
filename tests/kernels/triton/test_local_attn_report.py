"""Local attention in ``linzoo kernel-report``: four kernels are compiled here, all of them by the command."""

import argparse
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from linzoo.kernels.local_attn import triton_parts
from linzoo.kernels.local_attn.triton_tiles import tile_for
from linzoo.tools import compile_local_attn, kernel_report
from linzoo.tools.compile_facts import ARCHS, source
from linzoo.tools.compile_local_attn import Job, jobs, measure, record

TABLE = json.loads(compile_local_attn.thresholds_path().read_text())
COMPILED = [
    Job("clear_pooled", 64, "bf16", "forward", "sm_90"),
    Job("clear", 128, "bf16", "query_gradient_dense", "sm_90"),
    Job("clear", 64, "bf16", "key_gradient", "gfx942"),
    Job("clear", 64, "fp32", "key_gradient_dense", "gfx942"),
]


@pytest.mark.slow
def test_four_kernels_compile_within_the_limits():
    found = {job.name: kernel_report.violations(job, measure(job), TABLE) for job in COMPILED}
    assert found == {job.name: [] for job in COMPILED}


def test_the_table_holds_the_whole_list_within_the_limits_and_its_tiles_are_those_that_ship():
    assert list(TABLE["facts"]) == [job.name for job in jobs()]
    assert len(jobs()) == (2 * 6 + 2 * 2) * 2 * len(ARCHS)
    for job in jobs():
        facts = TABLE["facts"][job.name]
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job.dtype]
        tile = tile_for(job.role.removesuffix("_dense"), job.width, job.width, dtype, job.arch)
        assert facts["tile"] == tile.name, job.name
        assert kernel_report.violations(job, facts, TABLE) == [], job.name


def test_the_limits_are_those_of_the_other_kernels():
    other = json.loads(kernel_report.thresholds_path().read_text())
    assert {key: TABLE[key] for key in ("limits", "about")} == {
        key: other[key] for key in ("limits", "about")
    }


def test_sizes_reach_and_splits_leave_the_compiled_variant_as_it_is():
    for role in ("forward", "query_gradient", "key_gradient_dense"):
        launch = record(Job("clear", 64, "bf16", role, "sm_90"))
        integers = [p for p in launch.kernel.params if p.name in triton_parts.INTEGERS]
        assert len(integers) > 20 and all(p.do_not_specialize for p in integers)
        types = source(launch, amd=False).signature
        assert {types[p.name] for p in integers} <= {"i32", "constexpr"}
        assert all(launch.args.get(p.name) is None for p in integers if types[p.name] == "constexpr")


def test_the_command_measures_the_models_of_every_op_by_name(monkeypatch, capsys):
    spilled = {"stack": 24}
    monkeypatch.setattr(compile_local_attn, "measure", lambda job: TABLE["facts"][job.name] | spilled)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    parser = argparse.ArgumentParser()
    kernel_report.add_arguments(parser)
    args = parser.parse_args(["--arch", "sm_90", "--model", "clear", "--dtype", "bf16"])
    assert kernel_report.run(args) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("VIOLATION")]
    assert len(lines) == 12 and all("stack must be 0, got 24" in line for line in lines)


def test_importing_the_op_imports_none_of_its_triton_files():
    code = "import sys, linzoo.kernels; assert not [m for m in sys.modules if 'local_attn.triton' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
