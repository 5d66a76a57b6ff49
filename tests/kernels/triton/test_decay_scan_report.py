"""The decayed scan in ``linzoo kernel-report``: four kernels are compiled here, all by the command."""

import argparse
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from linzoo.kernels.decay_scan import triton_parts
from linzoo.kernels.decay_scan.triton_tiles import tile_for
from linzoo.tools import compile_decay_scan, kernel_report
from linzoo.tools.compile_decay_scan import MODELS, ROLES, Job, jobs, measure, record
from linzoo.tools.compile_facts import ARCHS, source

TABLE = json.loads(compile_decay_scan.thresholds_path().read_text())
KERNELS = {"dstates": "states", "doutputs": "outputs"}  # by role, where the names differ
COMPILED = [
    Job("lion_rwkv", 64, "bf16", "gradients", "sm_90"),
    Job("lion_retnet", 64, "bf16", "doutputs", "sm_90"),
    Job("lion_rwkv", 64, "bf16", "outputs", "gfx942"),
    Job("lion_mlstm", 64, "bf16", "states", "gfx942"),
]


@pytest.mark.slow
def test_four_kernels_compile_within_the_limits():
    found = {job.name: kernel_report.violations(job, measure(job), TABLE) for job in COMPILED}
    assert found == {job.name: [] for job in COMPILED}


def test_the_table_holds_the_whole_list_within_the_limits_and_its_tiles_are_those_that_ship():
    assert list(TABLE["facts"]) == [job.name for job in jobs()]
    widths = sum(len(model.widths) for model in MODELS.values())
    assert len(jobs()) == widths * len(ROLES) * 2 * len(ARCHS)
    for job in jobs():
        facts, model = TABLE["facts"][job.name], MODELS[job.model]
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job.dtype]
        kernel = KERNELS.get(job.role, job.role)
        kernel = f"channel_{kernel}" if model.kind == "channel" else kernel
        tile = tile_for(kernel, job.width, job.width + model.count, dtype, job.arch)
        assert facts["tile"] == tile.name, job.name
        assert kernel_report.violations(job, facts, TABLE) == [], job.name


def test_the_limits_are_those_of_the_other_kernels():
    other = json.loads(kernel_report.thresholds_path().read_text())
    assert {key: TABLE[key] for key in ("limits", "about")} == {
        key: other[key] for key in ("limits", "about")
    }


def test_sizes_and_segments_leave_the_compiled_variant_as_it_is():
    for role in ROLES:
        launch = record(Job("lion_rwkv", 64, "bf16", role, "sm_90"))
        integers = [p for p in launch.kernel.params if p.name in triton_parts.INTEGERS]
        assert len(integers) > 10 and all(p.do_not_specialize for p in integers)
        types = source(launch, amd=False).signature
        assert {types[p.name] for p in integers} <= {"i32", "constexpr"}
        assert all(launch.args.get(p.name) is None for p in integers if types[p.name] == "constexpr")


def test_the_command_measures_the_models_of_every_op_by_name(monkeypatch, capsys):
    spilled = {"stack": 24}
    monkeypatch.setattr(compile_decay_scan, "measure", lambda job: TABLE["facts"][job.name] | spilled)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    parser = argparse.ArgumentParser()
    kernel_report.add_arguments(parser)
    args = parser.parse_args(["--arch", "sm_90", "--model", "lion_mlstm", "--dtype", "bf16"])
    assert kernel_report.run(args) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("VIOLATION")]
    assert len(lines) == len(ROLES) and all("stack must be 0, got 24" in line for line in lines)


def test_importing_the_op_imports_none_of_its_triton_files():
    code = "import sys, linzoo.kernels; assert not [m for m in sys.modules if 'decay_scan.triton' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
