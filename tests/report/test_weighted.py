"""A report of weighted jets: what they are worth is told and used, and spectra count them."""

from __future__ import annotations

import io
import json

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console

from report.test_notes import jets, write
from setflow import SetBatch
from setflow.physics.metrics import distances, observables
from setflow.report.correlations import with_pairs
from setflow.report.figures import QUANTITIES, spectrum
from setflow.report.histograms import Histogram
from setflow.report.images import _image, jet_images
from setflow.report.page import compare, evaluate


def weighted(n: int, seed: int, weight) -> SetBatch:
    sample = jets(n, seed)
    return SetBatch(sample.x, sample.mask, weight=weight)


def repeated(sample: SetBatch, times: torch.Tensor) -> SetBatch:
    return SetBatch(*(part.repeat_interleave(times, 0) for part in (sample.x, sample.mask)))


TIMES = torch.arange(150) % 3 + 1


def test_values_are_those_of_repeated_jets_and_the_worth_is_told():
    model, truth = jets(120, 1), weighted(150, 2, 0.5 * TIMES)
    report = compare(model, truth, pairs=3)
    expected = compare(model, repeated(truth, TIMES), pairs=3)
    for name, result in report.metrics.items():
        assert result.value == pytest.approx(expected.metrics[name].value, rel=1e-9)
    worth = float(TIMES.sum()) ** 2 / float((TIMES**2).sum())
    assert report.reference.effective == pytest.approx(worth)
    assert report.generated.effective is None
    assert report.to_dict()["reference"]["effective"] == pytest.approx(worth)
    console = Console(width=200, file=io.StringIO())
    console.print(report.table())
    text = console.file.getvalue()
    assert (
        f"the 150 reference jets have weights, 0 of them negative, and are worth {worth:,.0f}"
        in text
    )
    assert "which are worth less than what is compared" in text
    assert report.notes == ()


def test_few_are_those_that_count():
    weight = torch.ones(150)
    weight[0] = 1000
    (note,) = compare(jets(120, 1), weighted(150, 2, weight), pairs=3).notes
    assert "are worth 1 equal ones, fewer than 100" in note


def test_negative_weights_are_counted_and_cancel():
    truth = jets(150, 2)
    x, mask = (torch.cat([part, part[:20], part[:20]]) for part in (truth.x, truth.mask))
    weight = torch.cat([torch.ones(170), -torch.ones(20)])
    report = compare(jets(120, 1), SetBatch(x, mask, weight=weight), pairs=3)
    plain = compare(jets(120, 1), truth, pairs=3)
    for name, result in report.metrics.items():
        assert result.value == pytest.approx(plain.metrics[name].value, rel=1e-9)
    assert report.reference.negative == 20


def test_files_with_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("setflow.report.figures.draw_jets", lambda *_, **__: {})
    paths = [write(tmp_path / f"{seed}.h5", jets(150, seed)) for seed in (1, 2)]
    with pytest.raises(ValueError, match=r"neither .* has a dataset 'weight' of weights"):
        evaluate(*paths, tmp_path / "none", weight="weight", pairs=2)
    with h5py.File(paths[1], "a") as file:
        file["weight"] = TIMES.numpy()
    report = evaluate(*paths, tmp_path / "report", weight="weight", pairs=2)
    sides = [observables(jets(150, seed).x.float(), jets(150, seed).mask) for seed in (1, 2)]
    assert report.reference.effective is not None
    assert report.generated.effective is None
    assert report.metrics["w1m"].value != pytest.approx(distances(*sides)["w1m"], rel=1e-3)
    held = json.loads((tmp_path / "report/metrics.json").read_text())
    assert held["reference"]["negative"] == 0
    with pytest.warns(UserWarning, match=r"not used \(weight\)"):
        evaluate(*paths, tmp_path / "plain", pairs=2)


def test_spectra_and_images_of_weighted_jets_are_those_of_repeated_jets():
    sample = jets(150, 3)
    many = repeated(sample, TIMES)
    one = with_pairs(observables(sample.x, sample.mask, 0.2 * TIMES))
    other = with_pairs(observables(many.x, many.mask))
    for quantity in QUANTITIES:
        low, high = (float(end) for end in torch.aminmax(other.column(quantity.name)[0]))
        edges = np.linspace(max(low, 1e-6), high, 7)
        got, expected = (Histogram.of(quantity, side, edges) for side in (one, other))
        np.testing.assert_allclose(got.density, expected.density, rtol=1e-12)
        assert got.below == pytest.approx(expected.below)
        assert (got.error >= 0.999 * expected.error).all()  # the repeated ones are no new jets
        assert f"worth {one.effective:,.0f}" in got.size
    edges = np.linspace(0, 1, 9)
    with_weights = SetBatch(sample.x, sample.mask, weight=TIMES)
    np.testing.assert_allclose(_image(with_weights, edges)[0], _image(many, edges)[0], rtol=1e-12)


def test_pictures_of_negative_weights_are_drawn():
    weight = torch.where(torch.arange(150) % 4 == 0, -0.5, 1.0)
    sample = weighted(150, 1, weight)
    side = with_pairs(observables(sample.x, sample.mask, weight))
    for quantity in QUANTITIES:
        spectrum(quantity, side, side).draw_without_rendering()
    jet_images(sample, sample).draw_without_rendering()
