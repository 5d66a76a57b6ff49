"""Checks of the sizes and rates that a model is built with: a ValueError that names the argument."""

from collections.abc import Sequence
from numbers import Integral, Real

POOLS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")


def check_count(owner: str, name: str, value: object, least: int = 1) -> None:
    """``value`` must be an integer of at least ``least``; ``owner`` begins the message."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")


def check_rate(owner: str, name: str, value: object) -> None:
    """``value`` must be a number in [0, 1)."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{owner}: {name} must be a number in [0, 1), got {value!r}")


def check_head(
    owner: str, num_classes: int, global_pool: str, drop_rate: float, pools: tuple[str, ...] = POOLS
) -> None:
    """What a classifier is built with; a classifier needs pooling, one of ``pools``."""
    check_count(owner, "num_classes", num_classes, least=0)
    check_rate(owner, "drop_rate", drop_rate)
    if global_pool not in ("", *pools):
        raise ValueError(f"{owner}: global_pool must be among '', {', '.join(pools)}, got {global_pool!r}")
    if num_classes > 0 and not global_pool:
        raise ValueError(
            f"{owner}: global_pool must not be empty with a classifier (num_classes={num_classes}), got ''"
        )


def check_body(
    owner: str,
    dims: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    *,
    ffn_ratio: float,
    in_chans: int,
    drop_path_rate: float,
    **per_stage: Sequence,
) -> None:
    """What stem and stages are built with; ``per_stage``: further tables with one entry a stage."""
    check_stages(owner, dims, depths, heads, **per_stage)
    check_count(owner, "in_chans", in_chans)
    check_rate(owner, "drop_path_rate", drop_path_rate)
    check_ratio(owner, "ffn_ratio", ffn_ratio, dims)


def check_ratio(owner: str, name: str, value: object, dims: Sequence[int]) -> None:
    """``value`` times the least of ``dims`` must be a hidden width."""
    if not isinstance(value, Real) or not 1 <= min(dims) * value < float("inf"):
        raise ValueError(
            f"{owner}: {name} must give a hidden width of at least 1 for dim={min(dims)}, got {value!r}"
        )


def check_stages(
    owner: str,
    dims: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    **per_stage: Sequence,
) -> None:
    """At least one stage, one entry a stage in each table, heads that divide dims, channels in the stem."""
    tables = {"dims": dims, "depths": depths, "heads": heads, **per_stage}
    for name, given in tables.items():
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"{owner}: {name} must be a sequence with one entry a stage, got {given!r}")
        if not given:
            raise ValueError(f"{owner}: {name} must have at least one stage, got {given!r}")
        if len(given) != len(dims):
            raise ValueError(f"{owner}: {name} must have one entry a stage ({len(dims)}), got {tuple(given)}")
    check_count(owner, "dims[0]", dims[0], least=2)  # the stem's first convolution has half of it
    for i, (dim, depth, number) in enumerate(zip(dims, depths, heads, strict=True)):
        check_count(owner, f"dims[{i}]", dim)
        check_count(owner, f"depths[{i}]", depth, least=0)
        check_count(owner, f"heads[{i}]", number)
    for dim, number in zip(dims, heads, strict=True):
        if dim % number:
            raise ValueError(f"{owner}: heads must divide dim={dim}, got {number}")
