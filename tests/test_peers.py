"""The table beside other packages: its rows, its document and its plain sides, without them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import setflow
from bench.peers import __main__ as peers
from bench.peers import calls, growth, operations
from bench.peers.plain import EncoderField, full_events, padded_loss, plain_log_prob
from bench.peers.sampling import by_hand, sampled
from bench.peers.table import COLUMNS, Comparison, Row, Section, Spent, agree, document, measured
from bench.published import PublishedEPiC
from bench.setups import awake

ROOT = Path(__file__).resolve().parents[1]
MASK = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


class Clock:
    """Time that passes only where it is told to."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1e-9  # the product of matrices takes this long
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def _comparison(**changed) -> Comparison:
    given = {
        "label": "a step", "against": "a loop", "peer": lambda: None, "setflow": lambda: None,
        "aim": 1.5, "check": lambda: None,
    }  # fmt: skip
    return Comparison(**(given | changed))


def test_a_row_is_the_median_of_ratios_within_rounds():
    row = Row(
        _comparison(operations=(8e9, 4e9), calls=2, share_aim=0.5),
        [8.0, 2.0, 6.0], [2.0, 2.0, 2.0], [4e9, 4e9, 1e9],
    )  # fmt: skip
    assert row.ratio == 3.0
    assert row.share() == 0.5
    assert row.cells() == (
        "a step", "a loop", "3.00", "1.00 to 4.00", "3", "3", "1", "1.3", "2.0", "50%",
        "at least 1.50: met; 50% of the peak: met",
    )  # fmt: skip
    assert len(row.cells()) == len(COLUMNS)


def test_a_row_says_what_was_missed_and_what_is_another_function():
    cells = Row(_comparison(check=None), [1.0], [1.0], [1.0]).cells()
    assert cells[1] == "a loop; another function"
    assert cells[-1] == "at least 1.50: missed"
    assert Row(_comparison(aim=None), [1.0], [1.0], [1.0]).cells()[7:] == ("", "", "", "")


def test_sides_run_in_turn_and_the_clock_of_another_process_counts():
    clock, order = Clock(), []

    def peer() -> Spent:
        order.append("peer")
        clock.spend(100.0)
        return Spent(3.0)

    def ours() -> None:
        order.append("ours")
        clock.spend(2.0)

    row = measured(_comparison(peer=peer, setflow=ours, rounds=3), clock)
    assert order == ["peer", "ours", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert row.peer == [3.0] * 3
    assert row.setflow == pytest.approx([2.0] * 3)
    assert len(row.peaks) == 3


def test_sides_that_disagree_are_not_timed():
    def wrong() -> None:
        agree(torch.tensor([1.0, 100.0]), torch.tensor([1.1, 100.0]))

    def never() -> None:
        raise RuntimeError("timed")

    with pytest.raises(AssertionError, match="not close"):
        measured(_comparison(check=wrong, peer=never, setflow=never))


def test_the_document_has_a_table_for_each_subject():
    rows = [Row(_comparison(), [3.0], [2.0], [1.0])]
    text = document(["processor: some"], [Section("First", rows, ["a note"]), Section("Second")])
    assert text.startswith("# setflow beside its peers\n")
    assert "\n- processor: some\n" in text
    assert "\n## First\n\n| measured | against | " in text
    assert "\n| a step | a loop | 1.50 | 1.50 to 1.50 | 1 | 3 | 2 |  |  |  | at least" in text
    assert text.endswith("- a note\n\n## Second\n")


def test_growth_is_told_by_its_exponents():
    mark = " objects, all real: an evaluation of TransformerField, "

    def row(n: int, events: int) -> Row:
        label = f"{n:,}{mark}{events} events"
        comparison = _comparison(label=label, against="another", check=None)
        return Row(comparison, [events * n**1.5], [events * n**2.0], [1.0])

    rows = [
        row(30, 100),
        row(100, 50),
        row(1000, 5),
        row(2000, 2),
        Row(_comparison(), *3 * [[1.0]]),
    ]
    assert growth.exponents(rows) == [
        "seconds per event grow as N^2.00 for TransformerField, N^1.50 for another, from 100 to "
        "2,000 objects"
    ]


def test_operations_are_those_of_the_matrix_products_of_real_objects():
    """A linear field by hand: 2 x 3 x 3 for an object, and as many again for each reverse pass."""
    field = calls.LinearField(3)
    objects = int(MASK.sum())
    assert operations.evaluation(field, MASK) == pytest.approx(18 * objects)
    assert operations.training(field, MASK) == pytest.approx(36 * objects)
    assert operations.one_probe(field, MASK) == pytest.approx(36 * objects)
    passes = 3 * int(MASK.sum(-1).square().sum())
    assert operations.exact_divergence(field, MASK) == pytest.approx(18 * (objects + passes))
    assert all(p.requires_grad and p.grad is None for p in field.parameters())


def test_operations_leave_nothing_in_other_networks():
    net = PublishedEPiC(3, hidden=8, latent=2, layers=1)
    assert operations.training(net, MASK) > 2 * operations.evaluation(net, MASK)
    assert all(p.grad is None for p in net.parameters())


def test_plain_sides_compute_what_setflow_does():
    field = awake(setflow.TransformerField(3, hidden=16, layers=1, heads=2))
    x, noise, t = torch.randn(*MASK.shape, 3), torch.randn(*MASK.shape, 3), torch.rand(len(MASK))
    ours = setflow.masked_fm_loss(field, x, noise, MASK, t)
    torch.testing.assert_close(padded_loss(field, x, noise, MASK, t), ours)
    everything = torch.ones_like(MASK)
    torch.testing.assert_close(
        padded_loss(field, x, noise, None, t),
        setflow.masked_fm_loss(field, x, noise, everything, t),
    )
    ends = by_hand(field, noise, MASK, 2) * MASK[..., None]
    torch.testing.assert_close(sampled(field, noise, MASK, 2), ends)
    base, solver = setflow.StandardNormal((3,)), setflow.Euler(2)
    with torch.no_grad():
        log_p = setflow.masked_log_prob(field, base, solver, x, MASK)
    torch.testing.assert_close(plain_log_prob(field, x, MASK, 2), log_p)


@pytest.mark.filterwarnings(f"ignore:{peers.NESTED}:UserWarning")
def test_the_encoder_has_the_sizes_of_the_field_and_needs_no_mask_of_full_events():
    field = setflow.TransformerField(3, hidden=16, layers=2, heads=2)
    encoder = EncoderField(field)
    assert len(encoder.encoder.layers) == 2
    events = full_events(3, 5)
    t = torch.rand(3)
    torch.testing.assert_close(encoder(events.x, t), encoder(events.x, t, mask=events.mask))
    x = events.x.clone().requires_grad_()
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    (seen,) = torch.autograd.grad((encoder(x, t, mask=mask) * mask[..., None]).sum(), x)
    assert bool((seen[~mask] == 0).all())
    with torch.no_grad():  # the fast path
        fast = encoder.eval()(events.x[1:], t[1:], mask=mask[1:])
    assert fast.shape == (2, 5, 3)


def test_small_calls_agree_and_need_no_package():
    torch.set_default_dtype(torch.float32)
    for comparison in calls.comparisons(trial=True):
        comparison.check()
        assert comparison.calls >= 20


def test_every_subject_can_be_imported_without_the_packages(monkeypatch):
    for package in peers.PEERS[:4]:
        monkeypatch.setitem(sys.modules, package, None)
    for name in peers.SUBJECTS:
        monkeypatch.delitem(sys.modules, f"bench.peers.{name}", raising=False)
        assert callable(importlib.import_module(f"bench.peers.{name}").comparisons)


def test_missing_packages_are_named_before_anything_runs(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", ("torch", "no_such_package"))
    monkeypatch.delenv("ENERGYFLOW_PYTHON", raising=False)
    with pytest.raises(SystemExit, match=r"no_such_package, energyflow .* make bench-peers"):
        peers.require_peers()


def test_the_requirements_name_every_package():
    text = (ROOT / "tests/bench/peers.txt").read_text()
    dev = (ROOT / "constraints.txt").read_text()
    for package in peers.PEERS:
        assert f"\n{package}==" in text + dev
