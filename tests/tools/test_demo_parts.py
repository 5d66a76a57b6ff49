"""Pieces of the demo: the store, the scaling law, and the weights that attention maps show."""

import json
import os

import pytest
import torch

import linzoo.vision  # noqa: F401  registers the mixers
from linzoo.tools.demo import digits, scaling, worker
from linzoo.tools.demo.attention import inputs_of
from linzoo.tools.demo.digits_training import build
from linzoo.tools.demo.rows import ROWS, effective_row, queries_keys_values
from linzoo.tools.demo.scaling_page import duration, exponent
from linzoo.tools.demo.store import PartStore
from linzoo.tools.files import write_atomic
from linzoo.vision.inline import mixer as inline_mixer
from linzoo.vision.layers import make_mixer
from linzoo.vision.layers.rope import rope_table

# the store


def test_the_same_settings_find_what_was_put(tmp_path):
    PartStore(tmp_path / "part", {"sizes": (1, 2)}).put("one", {"seconds": 1.5})
    assert PartStore(tmp_path / "part", {"sizes": (1, 2)}).get("one") == {"seconds": 1.5}


def test_other_settings_start_anew(tmp_path):
    PartStore(tmp_path / "part", {"epochs": 3}).put("one", 1)
    (tmp_path / "part" / "rala.pt").write_bytes(b"old weights")
    assert PartStore(tmp_path / "part", {"epochs": 4}).get("one") is None
    assert not (tmp_path / "part" / "rala.pt").exists()


def test_a_damaged_record_counts_as_none(tmp_path):
    PartStore(tmp_path / "part", {}).put("one", 1)
    (tmp_path / "part" / "records.json").write_text('{"one": ')
    assert PartStore(tmp_path / "part", {}).get("one") is None


def test_a_write_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def half(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# the scaling law


def points(law, *sizes):
    return [{"size": size, "seconds": law(size**2), "megabytes": size**2 / 1e4} for size in sizes]


def test_a_quadratic_law_is_continued_exactly():
    def law(n):
        return 3e-6 * n + 2e-11 * n**2

    assert scaling.predict_seconds(points(law, 256, 512, 768), 2048) == pytest.approx(law(2048**2))


def test_a_linear_law_is_continued_as_linear():
    assert scaling.predict_seconds(points(lambda n: 2e-6 * n, 256, 512), 2048) == pytest.approx(
        2e-6 * 2048**2
    )


@pytest.mark.parametrize("seconds", [(1.0, 2.0), (1.0, 400.0)], ids=["flattening", "steepening"])
def test_a_noisy_law_stays_between_linear_and_quadratic(seconds):
    measured = [{"size": 256, "seconds": seconds[0]}, {"size": 512, "seconds": seconds[1]}]
    ahead = scaling.predict_seconds(measured, 1024)
    assert 4 * seconds[1] * (1 - 1e-9) <= ahead <= 16 * seconds[1] * (1 + 1e-9)


def test_a_size_over_the_limit_is_not_measured():
    options = {"limit_seconds": {"linear": 60, "softmax": 20}, "memory_share": 0.6}
    slow = points(lambda n: 1e-10 * n**2, 256, 512)
    assert "1024 px would take about 110 s" in scaling.why_not("softmax", 1024, slow, options)
    assert scaling.why_not("softmax", 600, slow, options) == ""


def test_a_size_that_would_fill_the_memory_is_not_measured(monkeypatch):
    options = {"limit_seconds": {"linear": 60}, "memory_share": 0.6}
    fast = points(lambda n: 1e-9 * n, 256, 512)
    monkeypatch.setattr(scaling, "free_memory", lambda: 100e6)
    assert "of the 0.1 GB that are free" in scaling.why_not("linear", 1024, fast, options)


def test_the_exponent_of_a_power_law_is_found():
    assert exponent(points(lambda n: n**1.5, 256, 512, 1024, 2048)) == pytest.approx(1.5)


def test_a_worker_that_fails_says_what_it_said_last():
    request = {"model": "ravlt_tiney", "mixers": "linear", "size": 64}
    with pytest.raises(RuntimeError, match="ravlt_tiney"):
        worker.run_worker("linzoo.tools.demo.scaling_point", request)


def test_a_worker_leaves_when_its_parent_is_gone():
    import subprocess
    import sys

    request = json.dumps({"model": "ravlt_tiny", "mixers": "linear", "size": 4096})
    command = [sys.executable, "-m", "linzoo.tools.demo.scaling_point", request]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.close()  # what the system does for a parent that was killed
    assert process.wait(timeout=60) == 3


def test_durations_are_readable():
    shown = [duration(seconds) for seconds in (0.123, 9.876, 42.4, 324, 840, 7200)]
    assert shown == ["0.12 s", "9.88 s", "42 s", "5.4 min", "14 min", "2 h"]


# the weights of a query token


@pytest.fixture(params=sorted(ROWS))
def mixer(request):
    torch.manual_seed(3)
    module = make_mixer(request.param, 16, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    rope = rope_table(5, 7, 8, torch.device("cpu"), torch.float64) if module.uses_rope else None
    return request.param, module, rope


def watch(name, module, monkeypatch):
    """A list that gets sum_s A_ts v_s of every call of ``module``, (N, heads, D)."""
    seen = []

    def keep(function):
        def kept(*args, **kwargs):
            out = function(*args, **kwargs)
            seen.append(out[0])  # (1, N, heads, D)
            return out

        return kept

    if name == "inline":  # before the local residual
        monkeypatch.setattr(inline_mixer, "inline_attention", keep(inline_mixer.inline_attention))
    elif name == "lightnet":  # before gate and norm
        merge = module.merge
        module.merge = lambda o, tokens: (
            seen.append(o[0].unflatten(-1, (module.heads, -1))) or merge(o, tokens)
        )
    elif hasattr(module, "attend"):
        module.attend = keep(module.attend)
    else:  # L2ViT's: what goes into its output projection
        module.proj.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].flatten(0, -2).unflatten(-1, (module.heads, -1)))
        )
    return seen


@pytest.mark.parametrize("scale", [1.0, 0.05], ids=["long tokens", "short tokens"])
def test_the_weights_times_the_values_are_the_mixers_output(mixer, scale, monkeypatch):
    name, module, rope = mixer
    x = scale * torch.randn(1, 5, 7, 16, dtype=torch.float64)
    seen = watch(name, module, monkeypatch)
    with torch.no_grad():
        module(x, rope)
        values = queries_keys_values(module, x)[2]
        for token in (0, 17, 34):
            weights = effective_row(name, module, x, rope, token)
            assert weights.shape == (2, 35)
            y = torch.einsum("hn,nhd->hd", weights, values[0])
            assert torch.allclose(y, seen[0][token], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_weights_come_from_what_the_pyramid_gives_its_mixers(name, monkeypatch):
    """As the attention part does it: the trained model's own tokens and tables, whatever form they have."""
    options = digits.settings(quick=False)
    model = build(name, options).double().eval()
    mixer = model.stages[1].blocks[0].attn
    seen = watch(name, mixer, monkeypatch)
    with torch.no_grad():
        x, rope = inputs_of(mixer, model, torch.randn(1, 1, 48, 40, dtype=torch.float64))
        if name == "inline":  # the function was kept from every block of the model
            seen.clear()
            mixer(x, rope)
        weights = torch.stack([effective_row(name, mixer, x, rope, token) for token in range(30)], 1)
        values = queries_keys_values(mixer, x)[2][0]
        y = torch.einsum("htn,nhd->thd", weights, values)
    assert torch.allclose(y, seen[0], rtol=1e-6, atol=1e-9)


def test_every_mixer_of_the_demo_has_a_row():
    assert set(digits.mixers()) == set(ROWS)


# progress


@pytest.mark.parametrize("columns", [0, 100], ids="{} columns".format)
def test_a_terminal_sees_a_bar_and_a_log_sees_a_line(columns):
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import subprocess
    import sys
    import termios

    code = "from linzoo.tools.demo.context import Progress as P; b = P('d', 2); b.advance(); b.close('done')"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    assert "50%" in os.read(ours, 65536).decode()
    os.close(ours)
    logged = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr
    assert logged == "d: done\n"
