"""A short form of `make fuzz`: some files of each kind of damage, for at most 30 seconds."""

from __future__ import annotations

from collections import Counter

from chaos.fuzz import GOOD, KINDS, fuzz


def test_damaged_files_are_refused_or_read_right() -> None:
    found = list(fuzz(range(3 * len(KINDS)), entrances=2, seconds=25))
    wrong = [one for one in found if one.outcome not in GOOD]
    assert not wrong, wrong
    assert len(found) >= len(KINDS)
    assert Counter(one.outcome for one in found)["refused"] > len(found) / 2
