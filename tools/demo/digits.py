"""Part 1: a small pyramid of each mixer learns handwritten digits, with the same budget and seed."""

from pathlib import Path

from . import page, pictures
from .context import Context, one_thread

NAME = "digits"
TITLE = "Training: each mixer learns handwritten digits"
LABELS = {
    "rala": "RALA",
    "mala": "MALA",
    "nala": "NaLa",
    "l2": "L2ViT",
    "inline": "InLine",
    "lightnet": "LightNet",
}


def mixers() -> list[str]:
    """Every registered linear mixer, and plain softmax, what they are compared with, as the last."""
    from ...vision import mixer_names

    return [*(name for name in mixer_names() if not name.endswith("softmax")), "softmax"]


def label(mixer: str) -> str:
    return LABELS.get(mixer, mixer)


def settings(quick: bool) -> dict:
    return {
        "mixers": ["rala", "softmax"] if quick else mixers(),
        "dims": [32, 64, 96],
        "depths": [1, 1, 1],
        "heads": [2, 4, 6],
        "neck_dim": 256,
        "side": 32,
        "held_out": 360,
        "train_limit": 256 if quick else 1437,
        "epochs": 3 if quick else 13,
        "warmup_epochs": 1 if quick else 2,
        "batch": 64,
        "lr": 2e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "seed": 0,
    }


def run(context: Context) -> dict:
    from .digits_training import load_digits, train

    data = load_digits(context.settings)
    rows = []
    with one_thread():
        for mixer in context.settings["mixers"]:
            rows.append({"mixer": mixer} | train(mixer, context.settings, data, context.store))
    draw_accuracy(context.folder / "digits_accuracy.png", rows)
    samples = draw_samples(context.folder, data)
    missed = draw_missed(context.folder, data, rows)
    return {
        "rows": rows,
        "train": len(data.train),
        "held_out": len(data.held_out),
        "samples": samples,
        "missed": missed,
        "settings": context.settings,
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
    }


def draw_accuracy(path: Path, rows: list[dict]) -> None:
    def draw(axes, colours) -> None:
        for row in rows:
            errors = [max(100 * (1 - entry["accuracy"]), 0.2) for entry in row["history"]]
            line = "--" if row["mixer"] == "softmax" else "-"
            axes.plot(
                range(1, len(errors) + 1),
                errors,
                line,
                color=colours[row["mixer"]],
                label=label(row["mixer"]),
                lw=1.8,
            )
        axes.set_yscale("log")
        ticks = [0.3, 1, 3, 10, 30, 90]
        axes.set_yticks(ticks, [f"{tick:g} %" for tick in ticks])
        axes.minorticks_off()
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=10)

    pictures.chart(path, draw, "epoch", "held-out digits wrong", "Error while training")


def draw_samples(folder: Path, data) -> list[dict]:
    """One held-out picture a class, as the models see them."""
    samples = []
    for digit in range(10):
        index = (data.held_out_labels == digit).nonzero()[0].item()
        name = f"digit_{digit}.png"
        pictures.picture(folder / name, tile(data, index))
        samples.append({"picture": name, "digit": digit})
    return samples


def draw_missed(folder: Path, data, rows: list[dict]) -> list[dict]:
    """Held-out pictures that at least one mixer got wrong, with the answers, the most often missed first."""
    answers: dict[int, dict[str, int]] = {}
    for row in rows:
        for index, answer in row["missed"].items():
            answers.setdefault(int(index), {})[row["mixer"]] = answer
    missed = []
    for index, wrong in sorted(answers.items(), key=lambda item: (-len(item[1]), item[0]))[:8]:
        name = f"missed_{len(missed)}.png"
        pictures.picture(folder / name, tile(data, index))
        missed.append({"picture": name, "digit": data.held_out_labels[index].item(), "answers": wrong})
    return missed


def tile(data, index: int):
    pixels = (data.held_out[index, 0] * data.deviation + data.mean).clamp(0, 1)
    return (255 * (1 - pixels)).round().byte().numpy()


INTRO = """<p>A three-stage pyramid of {parameters:.2f} M parameters with the same mixer in every stage
learns scikit-learn's handwritten digits: {train:,} pictures for training, {held_out} held out (every class
in proportion), enlarged from 8 to {side} pixels. Every mixer gets the same {epochs} epochs, optimiser
(AdamW, cosine schedule) and seed.</p>"""
NOTE = """<p class="soft">One held-out picture is {one:.2f} %: mixers that differ by less than a few tenths
are alike. CPU time is that of training on one thread. Pictures this small have {tokens} tokens at most,
too few for linear attention to save anything; the next part has more.</p>"""


def html(section: dict, folder: Path) -> str:
    options, rows = section["settings"], section["rows"]
    body = INTRO.format(
        parameters=max(row["parameters"] for row in rows) / 1e6,
        train=section["train"],
        held_out=section["held_out"],
        side=options["side"],
        epochs=options["epochs"],
    )
    samples = [page.figure(folder / s["picture"], f"handwritten {s['digit']}") for s in section["samples"]]
    chart = page.figure(folder / "digits_accuracy.png", "error on held-out digits after each epoch, by mixer")
    body += page.grid(samples, "tiny")
    body += page.table(("mixer", "accuracy", "parameters", "CPU time"), [table_row(row) for row in rows])
    body += NOTE.format(one=100 / section["held_out"], tokens=(options["side"] // 4) ** 2)
    body += page.grid([chart], "wide")
    if section["missed"]:
        tiles = [page.figure(folder / m["picture"], f"a {m['digit']}", caption(m)) for m in section["missed"]]
        body += "<h3>Held-out digits taken for another</h3>" + page.grid(tiles, "small")
    return body


def table_row(row: dict) -> tuple[str, ...]:
    accuracy, seconds = f"{100 * row['accuracy']:.1f} %", f"{row['cpu_seconds']:.0f} s"
    return label(row["mixer"]), accuracy, f"{row['parameters']:,}", seconds


def caption(missed: dict) -> str:
    answers: dict[int, list[str]] = {}
    for mixer, answer in missed["answers"].items():
        answers.setdefault(answer, []).append(label(mixer))
    said = "; ".join(f"{answer}: {', '.join(mixers)}" for answer, mixers in answers.items())
    return f"is {missed['digit']}, taken for {said}"
