"""Which models to validate, with which weights: one, a wildcard or a list; a file or a folder of them."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")


@dataclass(frozen=True, slots=True)
class Job:
    """One model with one set of weights; ``checkpoint`` None: published or random ones."""

    model: str
    checkpoint: Path | None = None


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What ``--model`` and ``--checkpoint`` ask for, in order.

    Raises: ValueError for an unknown name, no match, or models without weights; FileNotFoundError.
    """
    import timm

    from ..models import check_name, families

    families()  # registers them
    listed = Path(args.model)
    if listed.is_file() and not timm.is_model(args.model):
        jobs = read_list(listed)
        if any(job.checkpoint for job in jobs):
            if args.checkpoint is not None:
                raise ValueError(f"--checkpoint must not be given when {listed} names checkpoints")
            for job in jobs:
                check_name(job.model)
                if job.checkpoint is None or not job.checkpoint.is_file():
                    raise FileNotFoundError(f"{listed}: {job.model} must have a file, got {job.checkpoint}")
            return jobs
        names = [check_name(job.model) for job in jobs]
    else:
        names = matching(args.model, args.pretrained)
    if args.checkpoint is not None:
        return with_files(names, args.checkpoint)
    if not args.pretrained and not args.random_weights:
        from ..predict import no_weights_message

        raise ValueError(no_weights_message(names[0]))
    if args.pretrained:
        check_published(names)
    return [Job(name) for name in names]


def matching(pattern: str, pretrained: bool) -> list[str]:
    """The registered names that a wildcard fits; with ``pretrained`` the tags that have weights."""
    import timm

    from ..models import check_name

    if not re.search(r"[*?\[]", pattern):
        return [check_name(pattern)]
    names = timm.list_models(pattern, pretrained=pretrained)
    if not names:
        what = "a model with published weights" if pretrained else "a model of timm or linzoo"
        raise ValueError(f"--model must match {what}, got {pattern!r}")
    return names


def check_published(names: list[str]) -> None:
    from ..models import has_published_weights

    for name in names:
        if not has_published_weights(name):
            raise ValueError(
                f"--pretrained: no published weights are known for {name}; use --checkpoint FILE"
            )


def read_list(path: Path) -> list[Job]:
    """A name a line, and after it a checkpoint if wanted; ``#`` begins a comment."""
    jobs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--model: {path} must be a text file of model names: {error.reason}") from error
    for line in lines:
        words = line.partition("#")[0].split(maxsplit=1)
        if words:
            jobs.append(Job(words[0], Path(words[1].strip()) if len(words) > 1 else None))
    if not jobs:
        raise ValueError(f"--model: {path} must name at least one model")
    return jobs


def with_files(names: list[str], source: Path) -> list[Job]:
    """Each name with its weights: one file for one model, else files of a folder."""
    if not source.exists():
        raise FileNotFoundError(f"--checkpoint must be a file or a folder, {source} is not there")
    if source.is_file():
        if len(names) > 1:
            raise ValueError(f"--checkpoint must be a folder for {len(names)} models, got the file {source}")
        return [Job(names[0], source)]
    files = sorted((f for f in source.iterdir() if f.name.endswith(WEIGHTS)), key=natural)
    if not files:
        raise FileNotFoundError(f"--checkpoint must hold files such as *.pth, {source} has none")
    if len(names) == 1:
        return [Job(names[0], file) for file in files]
    by_stem = {stem(file): file for file in files}
    missing = [name for name in names if name not in by_stem]
    if missing:
        raise FileNotFoundError(
            f"--checkpoint: {source} must have a file called {missing[0]} for {missing[0]}"
        )
    return [Job(name, by_stem[name]) for name in names]


def stem(file: Path) -> str:
    return next(file.name.removesuffix(end) for end in reversed(WEIGHTS) if file.name.endswith(end))


def natural(file: Path) -> list:
    """``checkpoint-9`` before ``checkpoint-10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]
