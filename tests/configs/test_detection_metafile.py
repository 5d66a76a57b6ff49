"""metafile.yml and README.md of configs/detection: the published figures, and nothing beside them."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "detection"
MODELS = {m["Name"]: m for m in yaml.safe_load((FOLDER / "metafile.yml").read_text())["Models"]}
ROWS = {
    row["config"]: row
    for row in map(json.loads, (ROOT / "tools/results/detection-flops.jsonl").read_text().splitlines())
}

# The authors' README for RAVLT: parameters in millions, 1e9 multiply-adds at 1280 x 800, box AP, AP50, AP75,
# then APs, APm, APl of RetinaNet, or mask AP, AP50, AP75, and the checkpoint.
PUBLISHED = """
retinanet_ravlt-tiny_fpn_1x_coco    24 201  45.9 67.4 49.4  28.5 50.1 60.8  retinanet_t_1x_12_epoch.pth
retinanet_ravlt-small_fpn_1x_coco   34 244  48.3 69.8 52.1  32.7 52.8 63.6  retinanet_s_1x_12_epoch.pth
retinanet_ravlt-base_fpn_1x_coco    57 353  49.8 71.2 54.0  34.0 54.3 64.9  retinanet_b_1x_12_epoch.pth
retinanet_ravlt-large_fpn_1x_coco  104 482  50.9 72.2 55.0  34.7 55.7 65.4  retinanet_l_1x_12_epoch.pth
mask-rcnn_ravlt-tiny_fpn_1x_coco    33 219  47.3 69.1 51.9  42.7 66.2 46.0  maskrcnn_t_1x_12_epoch.pth
mask-rcnn_ravlt-small_fpn_1x_coco   44 262  49.8 71.3 54.5  44.6 68.5 48.2  maskrcnn_s_1x_12_epoch.pth
mask-rcnn_ravlt-base_fpn_1x_coco    67 372  51.2 72.7 56.4  45.7 69.9 49.5  maskrcnn_b_1x_12_epoch.pth
mask-rcnn_ravlt-large_fpn_1x_coco  114 501  52.3 73.8 57.3  46.4 71.1 50.4  maskrcnn_l_1x_12_epoch.pth
mask-rcnn_ravlt-small_fpn_ms-crop-3x_coco   44 262  51.4 72.3 56.5  45.5 69.7 48.8  maskrcnn_s_3x_36_epoch.pth
mask-rcnn_ravlt-base_fpn_ms-crop-3x_coco    67 372  52.7 73.5 57.7  46.4 70.6 50.2  maskrcnn_b_3x_36_epoch.pth
mask-rcnn_ravlt-large_fpn_ms-crop-3x_coco  114 501  53.6 74.4 58.9  47.3 71.6 51.2  maskrcnn_l_3x_36_epoch.pth
cascade-mask-rcnn_ravlt-small_fpn_4conv1fc-giou_ms-crop-3x_coco 82 741 54.2 72.9 58.7 46.8 70.5 50.9 Casmaskrcnn_s_3x_36_epoch.pth
cascade-mask-rcnn_ravlt-base_fpn_4conv1fc-giou_ms-crop-3x_coco 105 851 55.3 73.8 60.1 47.7 71.4 52.1 Casmaskrcnn_b_3x_36_epoch.pth
cascade-mask-rcnn_ravlt-large_fpn_4conv1fc-giou_ms-crop-3x_coco 152 979 55.6 74.1 60.5 48.0 71.8 52.3 Casmaskrcnn_l_3x_36_epoch.pth
"""  # noqa: E501
PUBLISHED = {words[0]: words[1:] for words in map(str.split, PUBLISHED.strip().splitlines())}


def published_table() -> str:
    """For README.md: RAVLT, with what its authors published; counts are of ``linzoo bench detection``."""
    lines = [
        "| config | params, M: counted (published) | GMACs: as mmdetection counts (published) "
        "| between tokens | published box AP | published mask AP | checkpoint |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        if "Results" not in model:
            continue
        row, facts = ROWS[name], model["Metadata"]
        aps = {k: v for result in model["Results"] for k, v in result["Metrics"].items()}
        cells = [
            f"[{name}]({name}.py)",
            f"{row['parameters'] / 1e6:.1f} ({facts['Parameters (M)']})",
            f"{row['gmacs']['layers'] + row['gmacs']['rest']:.1f} ({facts['FLOPs (G)']})",
            f"{row['gmacs']['mixing']:.1f}",
            f"{aps['box AP']}",
            f"{aps.get('mask AP', '')}",
            f"[{Path(model['Weights']).name}]({model['Weights']})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def unpublished_table() -> str:
    """For README.md: the configs without published figures."""
    lines = ["| config | params, M | GMACs: as mmdetection counts | between tokens |", "|---|---|---|---|"]
    for name in (name for name, model in MODELS.items() if "Results" not in model):
        row = ROWS.get(name)
        cells = ["not counted"] * 3
        if row:
            macs = row["gmacs"]
            cells = [
                f"{row['parameters'] / 1e6:.1f}",
                f"{macs['layers'] + macs['rest']:.1f}",
                f"{macs['mixing']:.1f}",
            ]
        lines.append(f"| [{name}]({name}.py) | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_metafile_holds_every_config_once():
    names = re.findall(r"^  - Name: (\S+_coco)$", (FOLDER / "metafile.yml").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(f.stem for f in FOLDER.glob("*.py"))
    for name, model in MODELS.items():
        assert model["Config"] == f"configs/detection/{name}.py"
        assert (ROOT / model["Config"]).is_file() and model["Metadata"]["Epochs"] == (
            36 if "3x_" in name else 12
        )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_published_figures_are_those_of_the_authors(name):
    model = MODELS[name]
    if name not in PUBLISHED:
        assert not {"Results", "Weights"} & model.keys() and "FLOPs (G)" not in model["Metadata"]
        return
    *figures, file = PUBLISHED[name]
    second = (
        ("box APs", "box APm", "box APl") if "retinanet" in name else ("mask AP", "mask AP50", "mask AP75")
    )
    keys = ("box AP", "box AP50", "box AP75", *second)
    metrics = {key: value for result in model["Results"] for key, value in result["Metrics"].items()}
    have = [
        model["Metadata"]["Parameters (M)"],
        model["Metadata"]["FLOPs (G)"],
        *(metrics[key] for key in keys),
    ]
    assert have == [float(figure) for figure in figures] and metrics.keys() == set(keys)
    assert model["Weights"] == f"https://huggingface.co/aldjalkdf/RAVLT/resolve/main/{file}"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_header_says_how_to_run_the_config_and_what_was_published(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert f"\nCommand:   linzoo train-detection {name}\n" in text
    assert "\nHere:      not run\n" in text
    published = text.split("\nPublished: ")[1].partition("\n")[0]
    if name in PUBLISHED:
        box, mask = PUBLISHED[name][2], PUBLISHED[name][5]
        want = f"box AP {box}" if "retinanet" in name else f"box AP {box}, mask AP {mask}"
        assert published == f"{want} (README of github.com/qhfan/RALA)"
    else:
        assert published.startswith("none")


@pytest.mark.parametrize(("mark", "make"), [("published", published_table), ("others", unpublished_table)])
def test_the_tables_of_the_readme_are_those_of_the_metafile_and_of_the_counted_rows(mark, make):
    printed = (FOLDER / "README.md").read_text().split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0]
    assert printed.strip() == make(), f"paste into configs/detection/README.md:\n{make()}"
