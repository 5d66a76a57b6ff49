"""Part 1: a small pyramid of each mixer learns handwritten digits, with the same budget and seed."""

from pathlib import Path

from . import page, pictures
from .context import Context, one_thread

NAME = "digits"
TITLE = "Training: each mixer learns handwritten digits"
MIXERS = {
    "rala": "RALA (RAVLT)",
    "mala": "MALA",
    "nala": "NaLa (NaLaFormer)",
    "l2": "L2ViT's linear attention",
    "softmax": "softmax, the quadratic twin",
}


def settings(quick: bool) -> dict:
    return {
        "mixers": ["rala", "softmax"] if quick else list(MIXERS),
        "dims": [32, 64, 96],
        "depths": [1, 1, 1],
        "heads": [2, 4, 6],
        "neck_dim": 256,
        "side": 32,
        "held_out": 360,
        "train_limit": 256 if quick else 1437,
        "epochs": 3 if quick else 15,
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
                label=row["mixer"],
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


def html(section: dict, folder: Path) -> str:
    settings = section["settings"]
    parameters = max(row["parameters"] for row in section["rows"])
    intro = (
        f"<p>A three-stage pyramid of {parameters / 1e6:.2f} M parameters with the same mixer in every "
        "stage learns "
        f"scikit-learn's handwritten digits: {section['train']} pictures for training, "
        f"{section['held_out']} held "
        f"out (every class in proportion), enlarged from 8 to {settings['side']} pixels. Every mixer gets "
        "the same "
        f"{settings['epochs']} epochs, optimiser (AdamW, cosine schedule) and seed.</p>"
    )
    samples = [page.figure(folder / s["picture"], f"handwritten {s['digit']}") for s in section["samples"]]
    one = 100 / section["held_out"]
    rows = [
        (
            MIXERS[row["mixer"]],
            f"{100 * row['accuracy']:.1f} %",
            f"{row['parameters']:,}",
            f"{row['cpu_seconds']:.0f} s",
        )
        for row in section["rows"]
    ]
    table = page.table(("mixer", "held-out accuracy", "parameters", "CPU time"), rows)
    note = (
        f'<p class="soft">One held-out picture is {one:.2f} %, so differences of one or two tenths are not '
        "differences. CPU time is training on one thread; pictures this small have at most 64 tokens, "
        "where softmax is "
        "as cheap as anything. What happens with more tokens is the next part.</p>"
    )
    chart = page.figure(folder / "digits_accuracy.png", "error on held-out digits after each epoch, by mixer")
    body = intro + page.grid(samples, "tiny") + table + note + page.grid([chart], "wide")
    if section["missed"]:
        tiles = [page.figure(folder / m["picture"], f"a {m['digit']}", caption(m)) for m in section["missed"]]
        body += "<h3>Held-out digits that were taken for another</h3>" + page.grid(tiles, "small")
    return body


def caption(missed: dict) -> str:
    answers = ", ".join(f"{mixer} {answer}" for mixer, answer in missed["answers"].items())
    return f"is {missed['digit']}; said {answers}"
