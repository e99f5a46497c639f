"""Looped cases fail as tests of their own would: none is lost, and each is named."""

from __future__ import annotations

import pytest
import torch

from each import each, thinned


def test_all_combinations_run_from_one_seed():
    seen = []

    @each(("a", "b"), [(1, 2), (3, 4)])
    @each("c", "xy")
    def judge(a, b, c, fixture):
        seen.append((a, b, c, fixture, torch.rand(()).item()))

    judge(fixture=0)
    torch.manual_seed(0)
    number = torch.rand(()).item()
    assert seen == [(a, a + 1, c, 0, number) for a in (1, 3) for c in "xy"]


def test_every_case_that_fails_is_named_and_none_stops_the_others():
    @each("value", [1, 2, 3, 4])
    def judge(value):
        if value == 3:
            pytest.fail("three")
        assert value % 2, "even"

    with pytest.raises(AssertionError, match="even") as caught:
        judge()
    (note,) = caught.value.__notes__
    assert note.splitlines()[0] == "3 of 4 cases fail:"
    told = ["value=2: even", "value=3: Failed: three", "value=4: even"]
    assert [line.strip() for line in note.splitlines()[1:]] == told


def test_an_accident_is_told_as_such_if_nothing_failed_before():
    """So that a test which fails by its assertions is told from one that breaks."""

    def judge(value):
        assert 1 / value == 1, "not one"

    with pytest.raises(ZeroDivisionError) as caught:
        each("value", [1, 0, 2])(judge)()
    told = [f"value=0: ZeroDivisionError: {caught.value}", "value=2: not one"]
    assert caught.value.__notes__[0].splitlines()[1:] == [f"  {line}" for line in told]
    with pytest.raises(AssertionError, match="not one"):
        each("value", [2, 0])(judge)()


def test_what_would_judge_nothing_is_refused():
    with pytest.raises(AssertionError, match="without cases"):
        each("value", [])
    with pytest.raises(AssertionError, match="unknown argument"):

        @each("other", [1])
        def judge(value):
            pass

    @each("value", [1, 2])
    def skipping(value):
        pytest.skip("no")

    with pytest.raises(RuntimeError, match="value=1 may not skip the others"):
        skipping()


@each("value", [1, 2])
@pytest.mark.parametrize("parameter", ["a"])
@each("other", [3])
def test_it_goes_with_fixtures_and_parameters(value, other, parameter, tmp_path):
    assert (parameter, other) == ("a", 3)
    assert value in (1, 2)
    assert tmp_path.is_dir()


def test_thinning_leaves_out_no_pair():
    every = thinned("ab", "xyz", range(4))
    assert len(every) == 24
    kept = [combination.values for combination in every if not combination.marks]
    assert len(kept) == 12
    assert {(a, n) for a, _, n in kept} == {(a, n) for a in "ab" for n in range(4)}
    with pytest.raises(AssertionError, match="met by no default combination"):
        thinned("ab", "xyz")
