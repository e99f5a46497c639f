"""Plans of like lengths: every event once, no group too large, and no cheaper cut."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch

from setflow.core.planning import cut_by_length


def cost(groups, lengths, overhead, repeats):
    return sum(
        repeats(max(lengths[i] for i in group))
        * (overhead + len(group) * max(lengths[i] for i in group))
        for group in groups
    )


def every_cut(indices):
    """All ways to cut a sequence into runs."""
    if not indices:
        yield []
        return
    for size in range(1, len(indices) + 1):
        for rest in every_cut(indices[size:]):
            yield [indices[:size], *rest]


@pytest.mark.parametrize("overhead", [0, 1, 5, 40])
@pytest.mark.parametrize("repeats", [lambda n: 1, lambda n: 1 + 3 * n])
def test_no_cut_of_the_sorted_events_is_cheaper(overhead, repeats):
    lengths = [7, 2, 0, 9, 2, 5, 7, 1]
    groups = cut_by_length(lengths, overhead=overhead, largest=lambda n: 100, repeats=repeats)
    got = cost(groups, lengths, overhead, repeats)
    in_order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best = min(cost(cut, lengths, overhead, repeats) for cut in every_cut(in_order))
    assert got == pytest.approx(best)


def test_any_grouping_of_few_events_is_no_cheaper_than_one_of_sorted_events():
    lengths = [4, 1, 3, 1]
    groups = cut_by_length(lengths, overhead=2, largest=lambda n: 100)
    got = cost(groups, lengths, 2, lambda n: 1)
    for order in permutations(range(4)):
        for cut in every_cut(list(order)):
            assert got <= cost(cut, lengths, 2, lambda n: 1)


def test_every_event_stands_in_one_group_that_is_small_enough():
    lengths = torch.randint(0, 900, (3000,), generator=torch.Generator().manual_seed(1)).tolist()
    groups = cut_by_length(lengths, overhead=300, largest=lambda n: 4096 // max(1, n))
    assert sorted(index for group in groups for index in group) == list(range(3000))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) <= max(1, 4096 // max(1, longest))
        assert longest == lengths[group[-1]]
    for shorter, longer in pairwise(groups):  # up to the unit in which lengths are told apart
        assert max(lengths[i] for i in shorter) <= min(lengths[i] for i in longer) + 15
    padded = sum(len(g) * lengths[g[-1]] for g in groups)
    assert padded < 1.1 * sum(lengths)


def test_no_event_and_equal_events():
    assert cut_by_length([], overhead=1, largest=lambda n: 1) == []
    assert cut_by_length([0, 0], overhead=1, largest=lambda n: 9) == [[0, 1]]
    assert cut_by_length([5, 5, 5], overhead=1, largest=lambda n: 2) == [[0, 1], [2]]
    assert cut_by_length([5, 5], overhead=1, largest=lambda n: 0) == [[0], [1]]
