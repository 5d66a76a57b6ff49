"""EfficientViM is timm's: linzoo adds nothing to its names, and what timm has is the published model.

The figures are of the authors' code in float64 (rectangular pictures: timm's port, as the authors' code
takes squares only).
"""

import json
import subprocess
import sys

import pytest
import timm
import torch

from ..parity_fill import assert_matches, figures, fill, random

SNAPSHOT = """
import json, timm

def registered():
    cfgs = {name: timm.get_pretrained_cfg(name) for name in timm.list_models(include_tags=True)}
    entries = {name: timm.model_entrypoint(name) for name in timm.list_models()}
    return (
        {name: f"{entry.__module__}.{entry.__qualname__}" for name, entry in entries.items()},
        {name: None if cfg is None else cfg.to_dict() for name, cfg in cfgs.items()},
        timm.list_models("efficientvim*", include_tags=True),
        timm.list_models("efficientvim*", pretrained=True),
        timm.list_models(module="efficientvim"),
    )

entries, cfgs, *lists = registered()
import linzoo.vision
entries_after, cfgs_after, *lists_after = registered()
print(json.dumps({
    "replaced": [name for name in entries if entries_after.get(name) != entries[name]],
    "changed": [name for name in cfgs if cfgs_after.get(name) != cfgs[name]],
    "lists": [lists, lists_after],
    "new": [entry for name, entry in entries_after.items() if name not in entries],
}))
"""


@pytest.fixture(scope="module")
def registry():
    """timm's registry before and after ``import linzoo.vision``, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", SNAPSHOT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "overwrit" not in done.stderr.lower()  # timm's warning
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_linzoo_leaves_timms_efficientvim_as_it_was(registry):
    before, after = registry["lists"]
    assert before == after
    tags, pretrained, names = before
    assert {f"efficientvim_m{i}" for i in (1, 2, 3, 4)} <= set(names)
    assert {"efficientvim_m1.e300_in1k", "efficientvim_m4.e450_in1k", "efficientvim_m1_dist.in1k"} <= set(
        tags
    )
    assert set(pretrained) <= set(tags) and pretrained


def test_importing_linzoo_replaces_none_of_timms_models_and_changes_no_configuration(registry):
    assert registry["replaced"] == [] and registry["changed"] == []
    assert registry["new"] and all(entry.startswith("linzoo.vision.") for entry in registry["new"])


def load(name, record):
    """timm's model with the fill under the authors' names; norms over channels are vectors in timm."""
    weights = fill(dict(record["describe"]["state_dict"]), rounded=False)
    model = timm.create_model(name, device="meta").double()
    wanted = model.state_dict()
    fitting = {key: value.reshape(wanted[key].shape) for key, value in weights.items()}
    model.load_state_dict(fitting, strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == record["describe"]["params"]
    return model.eval()


def check(model, run):
    x = random(run["input"]["shape"], run["input"]["seed"])
    with torch.inference_mode():
        _, maps = model.forward_intermediates(x)
        logits = model(x)
    for stage, got in enumerate(maps):
        assert_matches(got, run["stages"][f"stage{stage}"], 1e-9, f"stage{stage}")
    assert_matches(logits, run["logits"], 1e-9, "logits")


@pytest.mark.parametrize("name", ["efficientvim_m1", "efficientvim_m4", "efficientvim_m1_dist"])
def test_timms_port_computes_what_the_authors_code_does(name):
    record = figures(name)
    runs = [run for run in record["runs"] if "error" not in run]
    assert record["dtype"] == "float64" and runs
    model = load(name, record)
    for run in runs:
        check(model, run)


def test_timms_port_takes_rectangular_pictures():
    model = load("efficientvim_m1", figures("efficientvim_m1"))
    runs = figures("efficientvim_rectangular")["runs"]
    assert all(run["input"]["shape"][2] != run["input"]["shape"][3] for run in runs) and runs
    for run in runs:
        check(model, run)
