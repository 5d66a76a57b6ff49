"""States through the tiles of a group, round by round, forwards and backwards.

A group's tiles lie round after round; round r has one tile of each of the first ``rounds[r]`` states.
"""

import torch
from torch import Tensor


def advance(S: Tensor, keys: Tensor, v: Tensor, keep: Tensor, rounds: list[int]) -> Tensor:
    """S (R, H, D, E) through the tiles' S = keep S + keys v, in place; returns S before every tile.

    keys (t, H, D, C), v (t, H, C, E); keep (t, H, 1 or D, 1), t = 1 where tiles share it.
    """
    first = rounds[0]
    states = S.new_empty(first + len(v), *S.shape[1:])  # before the first round, then after each
    states[:first] = S[:first]
    torch.bmm(keys.flatten(0, 1), v.flatten(0, 1), out=states[first:].flatten(0, 1))
    if rounds[-1] == first:
        befores = by_round(states, [first, *rounds])
        for before, after, kept in zip(befores, befores[1:], by_round(keep, rounds), strict=False):
            after.addcmul_(before, kept)
        S[:first] = befores[-1]
        return states[: len(v)]
    afters, kept = by_round(states[first:], rounds), by_round(keep, rounds)
    befores = [states[:first]]
    for r, n in enumerate(rounds):
        afters[r].addcmul_(befores[r], kept[r])
        going = rounds[r + 1] if r + 1 < len(rounds) else 0
        S[going:n] = afters[r][going:]  # of the states that end here
        befores.append(afters[r][:going])
    return torch.cat(befores)


def retreat(dS: Tensor, queries: Tensor, do: Tensor, keep: Tensor, rounds: list[int]) -> Tensor:
    """``advance`` backwards, with what the tiles' reads queries^T S add: dS of the last exits becomes that of
    the first entries, in place; returns that of every exit.

    queries (t, H, D, C), do (t, H, C, E).
    """
    first, last = rounds[0], rounds[-1]
    states = dS.new_empty(len(do) + last, *dS.shape[1:])  # before each round, then after the last
    states[len(do) :] = dS[:last]
    torch.bmm(queries.flatten(0, 1), do.flatten(0, 1), out=states[: len(do)].flatten(0, 1))
    befores, kept = by_round(states[: len(do)], rounds), by_round(keep, rounds)
    afters = [states[len(do) :]]
    for r in range(len(rounds) - 1, -1, -1):
        n = rounds[r]
        befores[r].addcmul_(afters[-1], kept[r])
        more = rounds[r - 1] if r else n
        # states that end in the round before come in from dS
        afters.append(befores[r] if more == n else torch.cat([befores[r], dS[n:more]]))
    dS[:first] = afters.pop()
    return states[last:] if last == first else torch.cat(afters[::-1])


def by_round(x: Tensor, rounds: list[int]) -> list[Tensor] | tuple[Tensor, ...]:
    """(t, ...) in parts (n, ...); one for all where t = 1 serves every round."""
    return [x] * len(rounds) if len(x) == 1 and sum(rounds) > 1 else x.split(rounds)
