"""A short form of `make chaos`."""

from __future__ import annotations

import pytest

from chaos.chaos import trials

COUNTS = {"kill": 2, "write": 2, "signal": 1, "full": 1, "two": 1}


@pytest.mark.parametrize("name", ["sample", "score", "fit"])
def test_disturbed_jobs_end_as_quiet_ones(name: str) -> None:
    found = dict(trials(name, COUNTS, seed=1))
    assert {how: outcomes.total() for how, outcomes in found.items()} == COUNTS
