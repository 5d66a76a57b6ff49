"""Which cases of a long matrix run by default; the rest runs with ``--all-cases`` (``make test-all``)."""

from collections.abc import Iterable

import pytest


def sampled(cases: Iterable[str], usual: Iterable[str]) -> list:
    """Parameters: ``cases``, those that are not ``usual`` marked to run with ``--all-cases`` only."""
    cases, usual = list(cases), set(usual)
    assert usual <= set(cases), usual - set(cases)  # a renamed case would leave the default run unseen
    return [c if c in usual else pytest.param(c, marks=pytest.mark.all_cases) for c in cases]
