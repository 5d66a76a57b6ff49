"""``linzoo info NAME``: what a model is, what it costs, where its weights come from."""

import argparse
import json
import textwrap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model name, with or without a tag")
    parser.add_argument("--img-size", type=int, help="side in pixels (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="a JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    if args.img_size is not None and args.img_size < 32:
        raise ValueError(f"--img-size must be at least 32 pixels, got {args.img_size}")
    facts = collect(args.name, args.img_size)
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(facts["name"])
    if facts["card"]:
        print(textwrap.fill(facts["card"], 96))
    macs, side = facts["macs"] / 1e9, facts["img_size"]
    rows = [
        ("family", facts["family"]),
        ("parameters", f"{facts['parameters'] / 1e6:.2f} M"),
        ("multiply-adds", f"{macs:.2f} G at {side} x {side} (products and convolutions)"),
        ("weights", facts["weights"]),
        ("licence", facts["licence"] or "not stated"),
        ("paper", facts["paper"] or "not stated"),
        ("published", facts["notes"] or "no figure recorded"),
    ]
    for label, value in rows:
        print(f"  {label:<14} {value}")
    return 0


def collect(name: str, size: int | None) -> dict:
    from .models import (
        card_summary,
        count_macs,
        count_parameters,
        family_of,
        meta_model,
        paper,
        weights_origin,
    )

    model = meta_model(name)
    cfg = model.pretrained_cfg
    size = size or cfg["input_size"][-1]
    family = family_of(name)
    notes = cfg.get("notes") or ""
    return {
        "name": name,
        "family": family or "timm's own",
        "card": card_summary(family) if family else "",
        "parameters": count_parameters(model),
        "img_size": size,
        "macs": count_macs(name, size),
        "weights": weights_origin(cfg),
        "licence": cfg.get("license") or "",
        "paper": paper(cfg),
        "notes": notes if isinstance(notes, str) else "; ".join(notes),
    }
