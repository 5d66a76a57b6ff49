"""The demo's part on large pictures by diffusion: what is measured, what is recorded, what the page says."""

import json

import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("diffusers")

from linzoo.diffusion import linearized
from linzoo.tools.bench_diffusion import read
from linzoo.tools.demo import diffusion_scaling as part
from linzoo.tools.demo import diffusion_scaling_page as shown
from linzoo.tools.demo import diffusion_scaling_point as point
from linzoo.tools.demo import worker as workers
from linzoo.tools.demo.context import Context
from linzoo.tools.demo.store import PartStore

GROWTH = {"linfusion": 1, "softmax": 2}  # of the seconds, in pixels


def row(model, attention, size, **changes):
    return {
        "model": model, "attention": attention, "size": size, "weights": 3437.0, "dtype": "float32",
        "seconds": 5.0 * (size / 512) ** (2 * GROWTH.get(attention, 1)), "megabytes": size**2 / 1e3,
        "predicted": 0.9 * size**2 / 1e3, "process_seconds": 9.0, **changes,
    }  # fmt: skip


def recorded(model, attention, size):
    about = {"date": "2026-01-01", "device": "a <cpu>", "load": 1.5, "commit": "abc"}
    return row(model, attention, size, **about)


def section(**changes):
    return {
        "points": [row("sd15", a, s) for a in ("linfusion", "softmax") for s in (512, 1024)],
        "recorded": [recorded("sd15", "linfusion", 2048), recorded("flux_pair", "clear", 1024)],
        "plans": {"tables": ["off: <all>", "on: all"], "peaks": [2, 1], "cpu_seconds": 3.0},
        "settings": part.settings(quick=False),
    } | changes


# measuring


def test_the_networks_have_the_published_widths():
    unet, flux = point.empty("sd15"), point.empty("flux_pair")
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert (flux.inner_dim, flux.config.num_attention_heads) == (3072, 24)
    assert (len(flux.transformer_blocks), len(flux.single_transformer_blocks)) == (1, 1)


@pytest.mark.parametrize("attention", ["softmax", "linfusion"])
def test_a_point_is_of_the_attention_and_the_size_that_were_asked_for(attention, monkeypatch):
    made, real, sizes = [], point.build, []
    monkeypatch.setattr(point, "build", lambda *a: made.append(real(*a)) or watch(made[-1], sizes))
    found = point.measure("small", attention, 192)
    handle = linearized(made[0])
    assert (handle is None) is (attention == "softmax")
    assert sizes[-1] == (1, 4, 24, 24)
    assert found["process_seconds"] > found["seconds"] > 0
    assert (found["model"], found["attention"], found["size"]) == ("small", attention, 192)


def watch(network, sizes):
    network.register_forward_pre_hook(
        lambda _, args, words: sizes.append(tuple(words["sample"].shape)), with_kwargs=True
    )
    return network


def test_random_weights_keep_the_signal_finite():
    import torch

    network = point.build("small", "softmax")
    with torch.inference_mode():
        y = network(**point.inputs_of("small", network, 128)).sample
    assert torch.isfinite(y).all() and y.std() > 0


def test_flux_gets_the_positions_of_its_grid():
    words = point.inputs_of("flux_pair", point.empty("flux_pair"), 64)
    assert words["hidden_states"].shape == (1, 16, 64) and words["txt_ids"].shape == (512, 3)
    assert words["img_ids"][:, 1:].tolist() == [[y, x] for y in range(4) for x in range(4)]


def test_the_part_keeps_what_it_has_measured(tmp_path, monkeypatch):
    calls = []

    def worker(module, request):
        calls.append(request["size"])
        return row(**request)

    monkeypatch.setattr(workers, "run_worker", worker)
    monkeypatch.setattr(part, "planned", lambda **_: section()["plans"])
    options = part.settings(quick=True)
    for _ in range(2):
        context = Context(
            folder=tmp_path, settings=options, store=PartStore(tmp_path / "s", options), state=tmp_path
        )
        made = part.run(context)
    assert calls == [64, 64]
    assert json.loads(json.dumps(made)) == made
    assert made["cpu_seconds"] == 2 * 9.0 + 3.0
    assert "A small UNet" in part.html(made, tmp_path) and "planned, not run" in part.html(made, tmp_path)


def test_the_plans_are_of_everything_off_and_everything_on():
    made = part.planned("sd15", 1024)
    assert made["peaks"][0] > made["peaks"][1]
    assert "on: nothing" in made["tables"][0] and "off: vae_tiles" in made["tables"][1]
    assert all("1024 x 1024 pixels" in table and "bfloat16 on cuda" in table for table in made["tables"])


def test_recorded_points_are_none_of_the_measured():
    measured = {tuple(one) for one in part.settings(quick=False)["points"]}
    assert measured == {("sd15", a, s) for a in GROWTH for s in (512, 1024)} | {
        ("flux_pair", a, 1024) for a in ("clear", "softmax")
    }
    assert not measured & {(r["model"], r["attention"], r["size"]) for r in read()}


# the page


def test_what_was_not_run_is_scaled_and_marked():
    """Softmax at 2048: t = b n^2 through 512 and 1024."""
    series = shown.series_of(section())["sd15"]
    (guess,) = shown.scaled(series["softmax"], [512, 1024, 2048])
    assert guess == {"size": 2048, "seconds": pytest.approx(5.0 * 4**4)}
    html = shown.table(series)
    assert "<td>~ 21 min</td>" in html and "<td>80 s *</td>" in html and "<td>~ 16.0x</td>" in html


def test_measures_stand_beside_the_memory_that_they_gave():
    assert shown.memory_of({"megabytes": 5000.0, "measures": ["feed_forward"]}) == "5,000 MB, feed_forward"
    assert shown.memory_of({"seconds": 1.0}) == shown.memory_of(None) == "-"


def test_a_point_that_was_measured_here_hides_the_recorded_one():
    both = section(recorded=[recorded("sd15", "softmax", 1024) | {"seconds": 1.0}])
    points = shown.series_of(both)["sd15"]["softmax"]
    assert [(p["size"], p["recorded"]) for p in points] == [(512, False), (1024, False)]


def test_the_page_shows_curves_tables_and_plans(tmp_path):
    shown.draw(tmp_path, section())
    html = part.html(section(), tmp_path)
    assert html.count("<img") == 2 and "CLEAR, radius 8" in html  # one size of FLUX makes no curve
    assert "planned, not run" in html and "16,384 x 16,384" in html and "off: &lt;all&gt;" in html
    assert "2026-01-01, a &lt;cpu&gt;, load average 1.5 while it ran, commit abc" in html
    assert "At 1024 pixels softmax takes 80 s and LinFusion 20 s: 4.0 to 1." in html
    assert "off by 10.0 % at most in the 6" in html
    assert shown.headline(section()) == [("4.0x", "time of softmax over LinFusion, SD-1.5's UNet at 1024 px")]
