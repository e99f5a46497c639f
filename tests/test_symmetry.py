"""The table of fields that know directions and one that does not, in small."""

from __future__ import annotations

import pytest
import torch

from bench import symmetry


@pytest.fixture
def _float32():
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float32")
def test_every_field_stands_in_the_table(monkeypatch):
    few = symmetry.read("train.h5", 300)
    monkeypatch.setattr(symmetry, "read", lambda name, stop=None: few[:stop])
    monkeypatch.setattr(symmetry, "BATCH", 32)
    made = symmetry.table(symmetry.Settings(0.05, events=4, turned=2, turns=1), seed=1)
    rows = [line.split(" | ") for line in made.splitlines() if " | 249,480 | " in line]
    assert [row[0].strip("| ") for row in rows] == list(symmetry.FIELDS)
    assert float(rows[2][-1].strip(" |")) < 1e-10
    assert " nan" not in made


def test_turned_events_keep_all_but_the_azimuth():
    few = symmetry.read("train.h5", 5)
    angle = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    other = symmetry.turned(few, 2, angle)
    kept = [0, 1, 3, 4, 5, 6]
    assert torch.equal(other.x[..., kept], few.x[..., kept])
    turn = (other.x - few.x)[..., 2]
    off = torch.where(few.mask, turn - angle[:, None], 0)
    torch.testing.assert_close(off.sin(), torch.zeros_like(off), rtol=0, atol=1e-5)
