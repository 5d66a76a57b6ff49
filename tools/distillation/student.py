"""Students: a copy of the teacher, or a new model, with its attention swapped."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

from torch import nn

from ...diffusion import LinearizedHandle, linearize
from .fresh import fresh_model


@dataclass(slots=True)
class Student:
    """Args: handle: None when nothing is swapped."""

    model: nn.Module
    handle: LinearizedHandle | None


def make_student(args: argparse.Namespace, teacher: nn.Module, share: bool) -> Student:
    """Swap a copy of ``teacher``, which stays what it is.

    Args:
        share: what the swap does not own stays the teacher's own tensors: memory for one model only.
    Raises: ValueError naming the flag.
    """
    if args.from_scratch:
        model = fresh_model(teacher)
    else:
        model = copy.deepcopy(teacher, {id(p): p for p in teacher.parameters()} if share else {})
    if args.method == "none":
        return Student(model, None)
    words = dict(args.method_kwargs) | ({} if args.init is None else {"init": args.init})
    try:
        return Student(model, linearize(model, args.method, weights=args.weights, **words))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--method {args.method}, --method-kwargs {args.method_kwargs}: {error}") from error
