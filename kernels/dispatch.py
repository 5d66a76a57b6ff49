"""Which implementation of an op runs: a tuple of candidates, best first, each of which says why it cannot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor

from .errors import BackendError
from .triton_available import why_not


@dataclass(frozen=True)
class Backend:
    """One implementation. ``why_not(x)`` is None when it can run on ``x``, else the reason as a phrase.

    ``by_name_only(x)`` is True where "auto" must pass it over although it could run (too slow to be a
    default).
    """

    name: str
    why_not: Callable[[Tensor], str | None]
    by_name_only: Callable[[Tensor], bool]


BACKENDS = (
    Backend("triton", why_not, by_name_only=lambda x: not x.is_cuda),  # off the GPU: the interpreter
    Backend("eager", lambda x: None, by_name_only=lambda x: False),
    Backend("reference", lambda x: None, by_name_only=lambda x: True),
)


def nearest(word: object, known: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest of ``known``, or nothing."""
    close = get_close_matches(str(word), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(op: str, backends: Sequence[Backend], asked: str, x: Tensor) -> str:
    """The backend that runs ``op`` on tensors like ``x``.

    ``asked`` is a backend's name or "auto", which takes the first that can run. A backend asked for by name
    never falls back: it raises BackendError with the reason. Raises ValueError for a name that does not
    exist.
    """
    known = ("auto", *(b.name for b in backends))
    if asked not in known:
        raise ValueError(f"{op}: backend must be one of {known}, got {asked!r}{nearest(asked, known)}")
    refusals = []
    for candidate in backends:
        if asked == "auto" and candidate.by_name_only(x):
            continue
        if asked in ("auto", candidate.name):
            reason = candidate.why_not(x)
            if reason is None:
                return candidate.name
            refusals.append(f"{candidate.name}: {reason}")
    raise BackendError(f"{op}: no backend for backend={asked!r} ({'; '.join(refusals)})")
