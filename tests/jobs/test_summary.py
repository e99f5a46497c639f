"""What a file of scores says in a few numbers."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from setflow.jobs import summary as summaries
from setflow.jobs.summary import summarize_scores


def write(path, log_prob, reasons):
    with h5py.File(path, "w") as file:
        file["log_prob"] = np.array(log_prob, "f8")
        file.create_dataset("reason", data=reasons, dtype=h5py.string_dtype())
    return path


def test_mean_and_error_are_those_of_the_rows_that_have_a_score(tmp_path):
    log_p = [1.0, math.nan, 3.0, -math.inf, 8.0]
    reasons = ["", "the mask is 7", "", "", ""]
    summary = summarize_scores(write(tmp_path / "s.h5", log_p, reasons))
    assert (summary.rows, summary.scored, summary.impossible) == (5, 3, 1)
    assert summary.mean == pytest.approx(4.0)
    assert summary.error == pytest.approx(math.sqrt(13 / 3))  # variance 13 of three values
    assert summary.reasons == {"the mask is 7": 1}
    text = "\n".join(summary.lines())
    assert "4.0 ± 2.1 nats, mean and standard error of 3 of 5 rows" in text
    assert "1 row could not be scored: the mask is 7" in text
    assert "1 row has log p = -inf" in text


def test_no_score_at_all_and_one_score(tmp_path):
    none = summarize_scores(write(tmp_path / "n.h5", [math.nan] * 3, ["a", "b", "a"]))
    assert none.lines() == [
        "log p of a jet: none of 3 rows has a finite one",
        "3 rows could not be scored: a (2 of them; the dataset `reason` has the others)",
    ]
    one = summarize_scores(write(tmp_path / "o.h5", [2.5], [""]))
    assert one.lines()[0].startswith("log p of a jet: 2.5 nats")
    assert one.lines()[-1] == "0 rows could not be scored"


def test_jets_that_are_cut_are_told(tmp_path):
    path = write(tmp_path / "s.h5", [1.0, 2.0], ["", ""])
    assert not any("hardest" in line for line in summarize_scores(path).lines())
    with h5py.File(path, "a") as file:
        file.attrs["cut_to"] = 30
    (told,) = (line for line in summarize_scores(path).lines() if "hardest" in line)
    assert told.startswith("jets with more than 30 particles are scored by their hardest 30")


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_the_numbers_do_not_depend_on_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(summaries, "_BLOCK", block)
    rng = np.random.default_rng(0)
    log_p = 1e6 + rng.standard_normal(50)  # far from 0, where a sum of squares loses its digits
    log_p[[0, 7]] = math.nan
    reasons = ["a", *[""] * 6, "b", *[""] * 42]
    summary = summarize_scores(write(tmp_path / "s.h5", log_p, reasons))
    finite = log_p[np.isfinite(log_p)]
    assert summary.mean == pytest.approx(finite.mean(), rel=1e-14)
    assert summary.error == pytest.approx(finite.std(ddof=1) / math.sqrt(48), rel=1e-6)
    assert summary.reasons == {"a": 1, "b": 1}
