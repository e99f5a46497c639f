"""Which events to evaluate together: like lengths, so that little is computed for padding.

Notation. An evaluation of b events costs w(n) (o + b n) where n is the largest number of objects
among them, o an overhead in units of the cost of one object, and w(n) how often the evaluation is
repeated (once for a velocity, once per coordinate for an exact divergence). Events are sorted by
length and cut where the sum of the costs is least; the order within the result is told by indices,
so that the caller's order is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["cut_by_length"]

_MOST_LENGTHS = 64  # distinct lengths that are told apart


def cut_by_length(
    lengths: Sequence[int],
    *,
    overhead: float,
    largest: Callable[[int], int],
    repeats: Callable[[int], int] = lambda longest: 1,
) -> list[list[int]]:
    """Return groups of indices into `lengths`, each index once, of least cost.

    Arguments:
        lengths: the number of objects of each event.
        overhead: what an evaluation costs besides its objects, in units of one object.
        largest: how many events may stand in a group whose longest event has so many objects, at
            least 1.
        repeats: how often a group whose longest event has so many objects is evaluated.

    >>> cut_by_length([9, 1, 9, 1], overhead=1, largest=lambda longest: 10)
    [[1, 3], [0, 2]]
    >>> cut_by_length([9, 1, 9, 1], overhead=100, largest=lambda longest: 10)
    [[1, 3, 0, 2]]
    """
    if not lengths:
        return []
    unit = -(-max(lengths) // _MOST_LENGTHS) or 1
    steps: dict[int, list[int]] = {}  # indices by length, rounded up to a multiple of the unit
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        steps.setdefault(-(-lengths[index] // unit), []).append(index)
    runs = list(steps.values())
    longest = [lengths[run[-1]] for run in runs]
    most = [max(1, largest(n)) for n in longest]
    # best[j]: the least cost of the runs before j, and where the last group of them starts
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(runs) + 1):
        n, events, choices = longest[end - 1], 0, []
        for start in range(end - 1, -1, -1):
            events += len(runs[start])
            parts = -(-events // most[end - 1])
            cost = repeats(n) * (parts * overhead + events * n)
            choices.append((best[start][0] + cost, start))
        best.append(min(choices))
    groups: list[list[int]] = []
    end = len(runs)
    while end:
        start = best[end][1]
        members = [index for run in runs[start:end] for index in run]
        parts = -(-len(members) // most[end - 1])
        size = -(-len(members) // parts)
        groups = [members[i : i + size] for i in range(0, len(members), size)] + groups
        end = start
    return groups
