"""``linzoo bench detection``: the published counts are met to the last printed digit."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")

from linzoo.cli import main
from linzoo.tools import bench_detection as bench

from ..sampling import sampled

PUBLISHED = bench.read_published()


@pytest.mark.parametrize("name", sampled(sorted(PUBLISHED), sorted(PUBLISHED)[::3]))
def test_counts_round_to_the_published_ones(name):
    row = bench.count(bench.CONFIGS / f"{name}.py", bench.PUBLISHED_SHAPE)
    assert round(row["parameters"] / 1e6) == PUBLISHED[name]["parameters_m"]
    assert round(row["gmacs"]["layers"] + row["gmacs"]["rest"]) == PUBLISHED[name]["gflops"]
    assert sum(row["parts"].values()) == pytest.approx(sum(row["gmacs"].values()), abs=0.1)


def test_the_kept_rows_are_what_is_counted_now():
    rows = [json.loads(line) for line in bench.RESULTS.read_text().splitlines()]
    assert {row["config"] for row in rows} <= {f.stem for f in bench.CONFIGS.glob("*.py")}
    assert PUBLISHED.keys() <= {row["config"] for row in rows}
    for row in rows[::9]:
        again = bench.count(bench.CONFIGS / f"{row['config']}.py", row["shape"])
        assert {key: row[key] for key in again} == again


def test_mixing_is_the_products_between_tokens():
    """RAVLT-T at 128 x 64, by hand: linear on 512 and 128 tokens, softmax on 32 and 8."""
    row = bench.count(bench.CONFIGS / "retinanet_ravlt-tiny_fpn_1x_coco.py", (128, 64))
    linear = sum(2 * 2 * tokens * channels * 64 for tokens, channels in ((512, 64), (128, 128)))
    softmax = 2 * (6 * 32**2 * 256 + 2 * 8**2 * 512)
    assert row["gmacs"]["mixing"] == round((linear + softmax) / 1e9, 2) > 0


def test_one_module_of_each_kind_is_counted_as_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8), nn.BatchNorm2d(8)
            self.linear, self.plain = nn.Linear(8, 4), nn.Linear(4, 4, bias=False)

        def forward(self, x):
            x = self.norm(self.bn(self.conv(x)).flatten(2).transpose(1, 2))
            x = self.plain(self.linear(x))
            return x @ x.transpose(1, 2)

    with torch.device("meta"):
        _, macs = bench.macs_of(Net(), torch.empty(1, 3, 5, 7))
    n = 35
    assert macs["layers"] == pytest.approx((n * 8 * 27 + n * 8 * 4 + n * 16) / 1e9)
    assert macs["rest"] == pytest.approx((n * 8 + n * 4 + 2 * 2 * n * 8) / 1e9)
    assert macs["mixing"] == pytest.approx(n * n * 4 / 1e9)


def test_an_operation_without_a_formula_is_not_passed_over():
    from linzoo.kernels import lin_reduce

    k = torch.empty(1, 6, 2, 4, device="meta")
    with pytest.raises(NotImplementedError, match=r"linzoo\.lin_reduce"), bench.known_ops({}):
        lin_reduce(k, k)


def test_rows_are_printed_with_the_published_figures_beside_them(capsys):
    assert main(["bench", "detection", "retinanet_ravlt-tiny*"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("retinanet")]
    assert "23.58 M [24]" in line and "200.7 G [201]" in line


def test_published_figures_stand_only_beside_the_shape_they_are_for(capsys):
    assert main(["bench", "detection", "retinanet_ravlt-tiny*", "--shape", "64", "96"]) == 0
    assert "[-]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retinanet_ravlt-tinny_fpn_1x_coco"], "did you mean retinanet_ravlt-tiny_fpn_1x_coco"),
        (["--shape", "0", "32"], "--shape must be at least 32 32, got 0 32"),
        (["--save", "retinanet_ravlt-tiny*"], "--save keeps rows of all configs"),
        ([str(bench.CONFIGS / "_base_" / "schedule_1x.py")], "must have model and test_dataloader"),
    ],
    ids=["unknown name", "no picture", "rows of some", "no model"],
)
def test_a_request_that_cannot_be_served_is_one_line_and_status_2(words, message, capsys):
    assert main(["bench", "detection", *words]) == 2
    assert message in capsys.readouterr().err


def test_save_replaces_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "find_configs", lambda _: [bench.CONFIGS / "retinanet_ravlt-tiny_fpn_1x_coco.py"]
    )
    out = tmp_path / "rows.jsonl"
    out.write_text("old\n")
    assert main(["bench", "detection", "--save", "--out", str(out)]) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["published"] == {"parameters_m": 24, "gflops": 201} and row["mmdet"] == "3.3.0"


def test_the_readme_tells_what_the_mixers_make_of_the_products_between_tokens():
    from linzoo.tools.detection.config import read_config
    from linzoo.tools.detection.model_checks import meta_detector

    text = (bench.CONFIGS / "README.md").read_text()
    image = torch.empty(1, 3, *bench.PUBLISHED_SHAPE, device="meta")
    sums = {}
    for mixers in ("", "linear", "softmax"):
        options = [f"model.backbone.mixers={mixers}"] if mixers else []
        config = read_config("retinanet_ravlt-tiny_fpn_1x_coco", options)
        sums[mixers] = round(bench.macs_of(meta_detector(config).backbone.eval(), image)[1]["mixing"], 1)
    assert f"{sums['linear']} of the {sums['']} are left" in text
    assert f"`=softmax`, in all stages, they are {sums['softmax']}" in text
