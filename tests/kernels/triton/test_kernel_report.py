"""Ahead-of-time compilation: a dozen kernels here, all of them by ``linzoo kernel-report``; none is run."""

import argparse
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from linzoo.kernels.linear_attn import triton_launch, triton_parts, triton_readout
from linzoo.kernels.linear_attn.triton_tiles import Tile, tile_for
from linzoo.tools import kernel_report
from linzoo.tools.compile_facts import ARCHS, Job, compilers, jobs, measure, record, source

TABLE = json.loads(kernel_report.thresholds_path().read_text())

# Every device kernel, both dtypes, rotation, weights, segments, centred sums, tiled widths: 11 compiles.
COMPILED = [
    Job("rala", 64, 64, "bf16", "reduce_forward", "sm_90"),
    Job("rala", 64, 64, "bf16", "reduce_backward", "sm_90"),
    Job("rala", 64, 64, "bf16", "reduce_backward", "gfx942"),
    Job("mala", 96, 96, "bf16", "readout_forward", "gfx942"),
    Job("mala", 96, 96, "bf16", "readout_backward", "sm_90"),
    Job("inline", 24, 24, "fp32", "reduce_forward", "sm_90"),
    Job("inline", 32, 32, "fp32", "reduce_backward", "gfx942"),
    Job("linfusion", 40, 40, "bf16", "readout_forward", "sm_90"),
    Job("others", 32, 32, "fp32", "readout_backward", "gfx942"),
    Job("scatterformer", 32, 32, "bf16", "reduce_forward", "gfx942"),
    Job("linfusion", 160, 160, "fp32", "state_gradient", "sm_90"),
]
# float16 is not on the list: one kernel of each role, where the tiles are its own or the hardest.
FLOAT16 = [
    Job("rala", 96, 96, "fp16", "reduce_forward", "sm_90"),
    Job("mala", 64, 64, "fp16", "reduce_backward", "sm_80"),
    Job("linfusion", 160, 160, "fp16", "readout_forward", "sm_90"),
    Job("linfusion", 160, 160, "fp16", "readout_backward", "sm_80"),
    Job("mala", 64, 64, "fp16", "state_gradient", "sm_80"),
]
TORCH = {"bf16": torch.bfloat16, "fp32": torch.float32}
LARGE = Tile(128, 128, 128)  # far more than four warps' registers hold


@pytest.mark.slow
def test_a_dozen_kernels_compile_within_the_limits():
    found = {job.name: kernel_report.violations(job, measure(job), TABLE) for job in COMPILED}
    assert found == {job.name: [] for job in COMPILED}


@pytest.mark.slow
@pytest.mark.parametrize("job", FLOAT16, ids=lambda job: job.name)
def test_float16_compiles_to_tf32_without_stack(job):
    facts = measure(job)
    assert facts["stack"] == facts["spills"] == 0 < facts["tensor_cores"], facts


def test_the_number_of_splits_and_rows_leaves_the_compiled_variant_as_it_is(monkeypatch):
    variants = set()
    for splits in (1, 2, 16):
        monkeypatch.setattr(triton_launch, "split_count", lambda *_, splits=splits: splits)
        launch = record(Job("mala", 64, 64, "bf16", "reduce_forward", "sm_90"))
        assert launch.args["n_split"] == splits
        made = source(launch, amd=False)
        variants.add(str((made.signature, made.constants, made.attrs)))
        assert made.signature["n_split"] == "i32"
    assert len(variants) == 1
    for kernel in (launch.kernel, triton_readout.readout_backward_kernel):
        integers = [p for p in kernel.params if p.name in triton_parts.INTEGERS]
        assert len(integers) > 5 and all(p.do_not_specialize for p in integers)


@pytest.mark.slow
def test_a_tile_that_is_too_large_is_reported():
    job = Job("linfusion", 80, 80, "bf16", "readout_forward", "sm_90")
    found = " ".join(kernel_report.violations(job, measure(job, LARGE), TABLE))
    assert "stack must be 0" in found and "spills must be 0" in found


def test_the_table_holds_the_whole_list_and_its_tiles_are_those_that_ship():
    assert list(TABLE["facts"]) == [job.name for job in jobs()]
    for job in jobs():
        kernel = {"reduce_forward": "accumulate", "state_gradient": "accumulate"}.get(job.role, job.role)
        tile = tile_for(kernel, job.key_dim, job.value_dim, TORCH[job.dtype], job.arch)
        shipped = f"{tile.tokens}x{tile.keys}x{tile.values} w{tile.warps} s{tile.stages}"
        assert TABLE["facts"][job.name]["tile"] == shipped, job.name


def test_the_whole_recorded_list_is_within_the_limits():
    assert len(jobs()) == 18 * 2 * 5 * len(ARCHS)
    bad = {job.name: kernel_report.violations(job, TABLE["facts"][job.name], TABLE) for job in jobs()}
    assert not any(bad.values()), {name: found for name, found in bad.items() if found}


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"stack": 8}, "stack must be 0, got 8"),
        ({"spills": 2}, "spills must be 0, got 2"),
        ({"shared": 70000}, "shared must be at most 65536 bytes, got 70000"),
        ({"tensor_cores": 0}, "tensor_cores must be at least 1 in bf16, got 0"),
        ({"registers": 100000}, "got 100000"),
    ],
)
def test_every_limit_is_reported(change, phrase):
    job = Job("rala", 64, 64, "bf16", "reduce_backward", "gfx942")
    (found,) = kernel_report.violations(job, TABLE["facts"][job.name] | change, TABLE)
    assert phrase in found


def test_ten_percent_more_registers_pass_and_eleven_do_not():
    job = Job("rala", 64, 64, "bf16", "reduce_forward", "sm_90")
    facts = TABLE["facts"][job.name]
    table = TABLE | {"facts": {job.name: facts | {"registers": 100}}}
    assert not kernel_report.violations(job, facts | {"registers": 110}, table)
    assert kernel_report.violations(job, facts | {"registers": 111}, table)


def test_other_compilers_may_not_update_a_part(monkeypatch, tmp_path, capsys):
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(TABLE))
    monkeypatch.setattr(kernel_report, "thresholds_path", lambda: path)
    monkeypatch.setattr(kernel_report, "compilers", lambda: TABLE["compilers"] | {"triton": "9.9"})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernel_report.run(command_line("--model", "l2vit", "--update")) == 2
    assert "--update with other compilers must be of all kernels" in capsys.readouterr().err
    assert json.loads(path.read_text()) == TABLE


def test_the_versions_of_the_compilers_are_recorded():
    assert set(TABLE["compilers"]) == set(compilers()) == {"triton", "ptxas", "ptxas-blackwell"}


def command_line(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    kernel_report.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_exits_with_1_and_lists_what_is_over(monkeypatch, capsys):
    monkeypatch.setattr(kernel_report, "measure", lambda job: TABLE["facts"][job.name] | {"stack": 24})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernel_report.run(command_line("--arch", "sm_90", "--model", "l2vit", "--dtype", "bf16")) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("VIOLATION")]
    assert len(lines) == 5 and all("stack must be 0, got 24" in line for line in lines)


def test_update_rewrites_the_table_and_does_not_hide_a_spill(monkeypatch, tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(TABLE))
    monkeypatch.setattr(kernel_report, "thresholds_path", lambda: path)
    monkeypatch.setattr(kernel_report, "compilers", lambda: TABLE["compilers"])
    changes = {"registers": 9, "spills": 1}
    monkeypatch.setattr(kernel_report, "measure", lambda job: TABLE["facts"][job.name] | changes)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernel_report.run(command_line("--model", "l2vit", "--update")) == 1
    written = json.loads(path.read_text())
    changed = [name for name, facts in written["facts"].items() if facts != TABLE["facts"][name]]
    assert len(changed) == 40 and all(name.startswith("l2vit") for name in changed)
    assert written["limits"] == TABLE["limits"] and written["about"] == TABLE["about"]


def test_a_kernel_that_does_not_compile_is_one_violation(monkeypatch, capsys):
    def measured(job):
        if job.role == "reduce_forward":
            raise ValueError("no such layout")
        return TABLE["facts"][job.name]

    monkeypatch.setattr(kernel_report, "measure", measured)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernel_report.run(command_line("--arch", "sm_80", "--model", "l2vit", "--dtype", "fp32")) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("VIOLATION")]
    name = "l2vit 32x32 fp32 reduce_forward sm_80"
    assert lines == [f"VIOLATION {name}: does not compile: ValueError: no such layout"]


def test_the_command_refuses_under_the_interpreter(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernel_report.run(command_line()) == 2
    assert "TRITON_INTERPRET must be unset" in capsys.readouterr().err


def test_importing_the_command_and_the_kernels_imports_no_triton():
    code = "import sys, linzoo.tools.kernel_report; assert not {'torch', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, linzoo.kernels; assert not [m for m in sys.modules if 'linear_attn.triton' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
