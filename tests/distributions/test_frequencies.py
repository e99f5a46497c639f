"""How often compositions occur, by parts."""

from __future__ import annotations

import torch

from setflow.distributions import frequencies
from setflow.distributions.frequencies import Frequencies


def test_parts_add_up_to_the_whole_however_seldom_they_are_put_together(monkeypatch):
    counts, weight = torch.randint(0, 3, (500, 4)), torch.randn(500).double()
    whole = Frequencies.of(counts, weight)
    listed = torch.unique(counts, dim=0)
    assert torch.equal(whole.rows, listed)
    for few in (0, 10, 10_000):
        monkeypatch.setattr(frequencies, "_FEW", few)
        total = Frequencies.of(counts[:0], weight[:0])
        for k in range(0, 500, 7):
            total = total + Frequencies.of(counts[k : k + 7], weight[k : k + 7])
            assert len(total.rows) <= 2 * len(listed) + few + len(listed)
        assert len(total) == 500
        back = Frequencies.from_tensors(total.tensors())
        assert torch.equal(back.rows, listed)
        torch.testing.assert_close(back.sums, whole.sums, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(total.of_numbers(9), whole.of_numbers(9))
        assert torch.equal(total.numbers, whole.numbers)
    for k, row in enumerate(listed):
        there = (counts == row).all(1)
        w = weight[there]
        expected = [len(w), w.sum(), (w**2).sum(), w.abs().sum(), (w < 0).sum()]
        torch.testing.assert_close(whole.sums[:, k], torch.tensor(expected).double())


def test_events_are_worth_their_effective_number():
    counts = torch.tensor([[1], [2], [2]])
    plain = Frequencies.of(counts)
    assert plain.worth.tolist() == [1, 2]
    assert plain.events.tolist() == [1, 2]
    weighted = Frequencies.of(counts, torch.tensor([3.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted.worth.sum(), torch.tensor(25 / 11).double())
    assert weighted.of_numbers(3)[1].tolist() == [0, 3, 2, 0]
