"""The README's table is the registry's, and its code runs as printed."""

import json
import re
import shlex
from pathlib import Path

import pytest
import timm

import linzoo.vision
from linzoo.tools.list_models import collect

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def zoo_table() -> str:
    """The table of the README, from the registry and the cards: paste this when it changes."""
    lines = ["| family | models: parameters, published top-1 | paper |", "|---|---|---|"]
    rows = collect("*", pretrained=False)
    for family in linzoo.vision.FAMILIES:
        title = (ROOT / "vision" / family / "README.md").read_text().partition("\n")[0].removeprefix("# ")
        models = []
        for row in (row for row in rows if row["family"] == family):
            top1 = re.search(r"top-1 (\d+\.\d+) \(", str(timm.get_pretrained_cfg(row["name"]).notes or ""))
            figures = f"{row['parameters'] / 1e6:.1f} M"
            if (
                top1 and row["name"] != "nalaformer_xt"
            ):  # published for a model of another size, says the card
                figures += f", {top1[1]} %"
            models.append(f"`{row['name']}` {figures}")
        number = row["paper"].partition(":")[2]
        paper = f"[{number}](https://arxiv.org/abs/{number})"
        lines.append(f"| [{title}](vision/{family}/README.md) | {'<br>'.join(models)} | {paper} |")
    return "\n".join(lines)


def rows_of(name: str) -> list[dict]:
    lines = (ROOT / "tools" / "results" / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def spread(entry: dict, star: str = "") -> str:
    return f"{entry['median']:.3g}x{star} ({entry['min']:.3g} to {entry['max']:.3g})"


def measured_tables() -> str:
    """The rows of ``linzoo bench ... --save``: how many times longer the rival takes."""
    kernels, models = rows_of("kernels-cpu.jsonl"), rows_of("models-cpu.jsonl")
    about = kernels[0]
    lines = [
        f"{about['device']}, torch {about['torch']}, one thread, CPU time, variants interleaved in one "
        "process; median (lowest to highest round).",
        "Every figure says how many times longer the rival takes than linzoo; below 1 the rival is faster.",
        "",
        "| `linear_attn`: B, H, N, D | dtype | authors' formula, forward | with backward | softmax SDPA |",
        "|---|---|---|---|---|",
    ]
    for forward, training in zip(kernels[::2], kernels[1::2], strict=True):
        assert (forward["pass"], training["pass"]) == ("forward", "training")
        scaled = "*" if forward["shape"]["N"] > 4096 else ""
        cells = [
            ", ".join(str(n) for n in forward["shape"].values()),
            forward["dtype"],
            spread(forward["ratio"]["upstream"]),
            spread(training["ratio"]["upstream"]),
            spread(forward["ratio"]["softmax"], scaled),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "\\* scaled up from 2,048 queries.", ""]
    lines += ["| whole model, batch 1 | size | authors' op order / linzoo | / folded |", "|---|---|---|---|"]
    for row in models:
        over = row["upstream_over"]
        lines.append(
            f"| `{row['model']}` | {row['img_size']} | {spread(over['eager'])} | {spread(over['folded'])} |"
        )
    return "\n".join(lines)


STEPS = {
    "sd15": ("SD-1.5's UNet, LinFusion", "linfusion"),
    "flux_pair": ("a joint and a single block of FLUX, CLEAR (r = 8)", "clear"),
}
STUDENTS = {
    "teacher": "the softmax teacher",
    "lit": "LiT, inherited and distilled",
    "scratch": "LiT from scratch",
    "clear": "CLEAR, r = 3",
    "linear": "plain linear attention, distilled",
}


def steps_table() -> list[str]:
    """The rows of ``linzoo bench diffusion --save``."""
    rows = {(r["model"], r["attention"], r["size"]): r for r in rows_of("diffusion-steps.jsonl")}
    lines = ["| one denoising step, float32 | side, px | softmax | linear | ratio |", "|---|---|---|---|---|"]
    for model, (name, linear) in STEPS.items():
        for size in sorted({s for m, _, s in rows if m == model}):
            times = [rows[key]["seconds"] for a in ("softmax", linear) if (key := (model, a, size)) in rows]
            if len(times) == 2:
                softmax, ratio = f"{times[0]:.0f} s", f"{times[0] / times[1]:.1f}x"
            else:
                softmax, ratio = "not run", ""
            lines.append(f"| {name} | {size} | {softmax} | {times[-1]:.0f} s | {ratio} |")
    return lines


def digits_table() -> list[str]:
    """The rows of ``python -m linzoo.tools.digits_diffusion full``: mean over seeds, lowest to highest."""
    rows = rows_of("digits-diffusion.jsonl")
    lines = ["| digits | Fréchet distance | noise error against the teacher |", "|---|---|---|"]
    lines.append(f"| real, held out | {rows[0]['distance']:.2f} | |")
    for name, words in STUDENTS.items():
        own = [row for row in rows if row["model"] == name]
        distances = [row["distance"] for row in own]
        errors = [row["teacher_error"] for row in own]
        mean = sum(distances) / len(own)
        error = "0" if name == "teacher" else f"{sum(errors) / len(own):.4f}"
        lines.append(f"| {words} | {mean:.2f} ({min(distances):.2f} to {max(distances):.2f}) | {error} |")
    return lines


STREET = {
    "lion_retnet": "LION-RetNet, 32 channels",
    "lion_mamba": "LION-Mamba, 32 channels",
    "scatterformer": "ScatterFormer, 32 channels",
}
STREET |= {f"{name}_pasted": f"{words}, pasted" for name, words in STREET.items()}


def street_table() -> str:
    """The rows of ``python -m linzoo.tools.street_scenes full``: mean over seeds, lowest to highest."""
    rows = rows_of("street-scenes.jsonl")
    lines = ["| detector | class | 3D AP | BEV AP | centre, m | yaw mod pi | yaw mod 2 pi |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, words in STREET.items():
        own = [row["metrics"] for row in rows if row["detector"] == name]
        for kind in ("Car", "Pedestrian", "Cyclist") if own else ():
            cells = [
                spread_of([each[f"{kind}_{figure}"] for each in own], digits, unit)
                for figure, digits, unit in (
                    ("ap_3d", 0, ""), ("ap_bev", 0, ""), ("centre_error", 2, ""), ("yaw_error_pi", 0, "°"),
                    ("yaw_error_2pi", 0, "°"),
                )
            ]  # fmt: skip
            lines.append(f"| {words} | {kind} | {' | '.join(cells)} |")
            words = ""
    return "\n".join(lines)


def spread_of(values: list[float], digits: int, unit: str) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def diffusion_tables() -> str:
    return "\n".join([*steps_table(), "", *digits_table()])


@pytest.mark.parametrize(
    ("mark", "make"),
    [
        ("zoo", zoo_table),
        ("measured", measured_tables),
        ("measured diffusion", diffusion_tables),
        ("measured lidar", street_table),
    ],
)
def test_the_tables_are_those_of_the_registry_and_of_the_recorded_rows(mark, make):
    printed = README.read_text().split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0].strip()
    assert printed == make(), f"paste into README.md:\n{make()}"


def blocks(language: str) -> list[str]:
    inside = README.read_text().split("```")[1::2]
    return [text.partition("\n")[2] for text in inside if text.partition("\n")[0] == language]


@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_quick_start_runs_as_printed(index):
    exec(compile(blocks("python")[index], f"README block {index}", "exec"), {})


def test_the_diffusers_quick_start_runs_as_printed_on_a_small_pipeline(tmp_path, monkeypatch, capsys):
    diffusers = pytest.importorskip("diffusers")
    from linzoo.diffusion import linearize, linearized

    from .diffusion.pipelines import build

    tiny = build("sd", cross_attention_dim=768)
    linearize(tiny.pipe, "linfusion", init="random").save_pretrained(tmp_path)
    linearized(tiny.pipe).unlinearize()
    asked = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda name: tiny.pipe)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, file: asked.append(repo) or str(tmp_path / file)
    )
    exec(compile(blocks("python")[1], "README block 1", "exec"), {})
    assert set(asked) == {"Yuanshi/LinFusion-1-5"}
    assert "linfusion at 2048 x 2048 px" in capsys.readouterr().out
    assert linearized(tiny.pipe) is None


def test_the_detection_config_builds_as_printed():
    import importlib

    config = {}
    exec(compile(blocks("python")[3], "README block 3", "exec"), config)
    for name in config["custom_imports"]["imports"]:
        importlib.import_module(name)
    from mmdet.registry import MODELS

    assert MODELS.build(config["backbone"]).out_strides == (4, 8, 16, 32)


def test_the_commands_that_are_printed_can_be_parsed():
    """With the flags that are shown; running them is what the commands' own tests do."""
    from linzoo.cli import build_parser

    lines = [line.partition("#")[0] for block in blocks("") for line in block.splitlines()]
    # several on a line stand far apart
    commands = [c.strip() for line in lines for c in re.split(r" {3,}", line) if "linzoo " in c]
    assert len(commands) > 12
    for command in commands:
        words = shlex.split(command.partition("linzoo ")[2])
        build_parser(words[0], words).parse_args(words)


def test_every_family_has_a_card_with_paper_code_and_weights():
    for family in linzoo.vision.FAMILIES:
        card = (ROOT / "vision" / family / "README.md").read_text()
        for row in ("| paper |", "| authors' code |", "| weights |"):
            assert row in card, (family, row)
