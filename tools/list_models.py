"""``linzoo list [PATTERN]``: the models, with timm's wildcards; ``--detectors``: those of LiDAR frames."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="timm wildcards: '*_tiny', 'mala*'")
    parser.add_argument("--pretrained", action="store_true", help="only where published weights are known")
    parser.add_argument("--families", action="store_true", help="one line a family instead of one a model")
    parser.add_argument("--detectors", action="store_true", help="LiDAR detectors instead")
    parser.add_argument("--json", action="store_true", help="a JSON list on stdout")


def run(args: argparse.Namespace) -> int:
    if args.detectors:
        return show_detectors(args)
    rows = collect(args.pattern, args.pretrained)
    if not rows:
        from .models import our_names

        raise ValueError(f"no model matches {args.pattern!r}; there are {', '.join(our_names())}")
    if args.families:
        rows = by_family(rows)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.families:
        for row in rows:
            print(f"{row['family']:<12} {row['models']:>2} models  {row['sizes']:<34} {row['paper']}")
    else:
        print(f"{'model':<20} {'parameters':>10}  {'family':<12} weights")
        for row in rows:
            millions = row["parameters"] / 1e6
            print(f"{row['name']:<20} {millions:>8.1f} M  {row['family']:<12} {row['weights']}")
    return 0


def show_detectors(args: argparse.Namespace) -> int:
    """Raises: ValueError where no name matches, or for a flag that says nothing about detectors."""
    import torch

    from ..pointcloud import create_detector, detector_config, list_detectors

    for flag in ("pretrained", "families"):
        if getattr(args, flag):
            raise ValueError(f"--{flag} does not go with --detectors")
    names = list_detectors(args.pattern)
    if not names:
        raise ValueError(f"no detector matches {args.pattern!r}; there are {', '.join(list_detectors())}")
    rows = []
    for name in names:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in create_detector(name).parameters())
        rows.append({"name": name, "parameters": parameters, "classes": list(detector_config(name).classes)})
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'detector':<24} {'parameters':>10}  classes")
    for row in rows:
        print(f"{row['name']:<24} {row['parameters'] / 1e6:>8.1f} M  {', '.join(row['classes'])}")
    return 0


def collect(pattern: str, pretrained: bool) -> list[dict]:
    import timm

    from .models import count_parameters, families, meta_model, names_of, paper, weights_origin

    rows = []
    for family in families():
        known = set(names_of(family))
        with_weights = {n.partition(".")[0] for n in timm.list_models(module=family, pretrained=True)}
        names = known & set(timm.list_models(pattern, module=family))
        for name in names & with_weights if pretrained else names:
            model = meta_model(name)
            cfg = model.pretrained_cfg
            row = {"name": name, "family": family, "parameters": count_parameters(model)}
            row["weights"] = weights_origin(cfg) if name in with_weights else "no published address"
            row["paper"] = paper(cfg)
            rows.append(row)
    order = {family: i for i, family in enumerate(families())}
    return sorted(rows, key=lambda row: (order[row["family"]], row["parameters"], row["name"]))


def by_family(rows: list[dict]) -> list[dict]:
    table = []
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        sizes = ", ".join(row["name"].removeprefix(family + "_") for row in members)
        table.append({"family": family, "models": len(members), "sizes": sizes, "paper": members[0]["paper"]})
    return table
