"""The pictures: their numbers by another road, their labels, and that nothing is cut off."""

from __future__ import annotations

import matplotlib
import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from setflow import SetBatch
from setflow.physics import METRICS
from setflow.physics.metrics import observables
from setflow.report import figures, images
from setflow.report.correlations import DELTA_R, correlations, joint_spectra, with_pairs
from setflow.report.figures import QUANTITIES, draw_jets, draw_spectrum, spectrum
from setflow.report.histograms import Histogram, chi2_of, edges_of, pulls_of
from setflow.report.images import example_jets, jet_images
from setflow.report.judging import Result
from setflow.report.page import compare

F64 = torch.float64


def jets(n=300, slots=10, seed=0, dtype=F64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    width = 0.05 + 0.2 * torch.rand(n, 1, 1, generator=generator, dtype=F64)
    angles = scale * width * torch.randn(n, slots, 2, generator=generator, dtype=F64)
    pt = torch.rand(n, slots, 1, generator=generator, dtype=F64) ** 4 / 3
    mask = torch.rand(n, slots, generator=generator) < 0.7
    x = torch.cat([angles, pt], -1).masked_fill(~mask[..., None], float("nan"))
    return SetBatch(x.to(dtype), mask)


def both(**options):
    sides = jets(seed=1, **options), jets(n=200, seed=2)
    return sides, tuple(with_pairs(observables(side.x, side.mask)) for side in sides)


def texts(figure):
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def assert_legible(figure):
    """Fonts of 9 points or more, and nothing outside the picture."""
    figure.canvas.draw()
    assert min(text.get_fontsize() for text in texts(figure)) >= 9
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0, box
    assert box.y0 >= 0, box
    assert box.x1 <= width, box
    assert box.y1 <= height, box


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda q: q.name)
def test_a_spectrum_is_labelled_and_legible(quantity):
    _, (generated, reference) = both()
    with matplotlib.rc_context(figures.STYLE):
        figure = spectrum(quantity, generated, reference, note="W1 = 1.23, floor (1.00 ± 0.20)")
        assert_legible(figure)
    top, middle, bottom = figure.axes
    assert bottom.get_xlabel() == quantity.label
    assert quantity.symbol in top.get_ylabel()
    assert middle.get_ylabel() == "Gen. / ref."
    assert bottom.get_ylabel() == "Pull"
    assert bottom.get_xscale() == ("log" if quantity.log_x else "linear")
    assert top.get_yscale() == ("log" if quantity.log_y else "linear")
    legend = top.get_legend()
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries[0].startswith("Reference: 200 jets")
    assert entries[1].startswith("Generated: 300 jets")
    title = legend.get_title().get_text()
    assert title.startswith("W1 = 1.23, floor (1.00 ± 0.20)\n$\\chi^2$ / ndf = ")
    assert middle.get_ylim() == (0.5, 1.5)
    figure.canvas.draw()
    box = legend.get_window_extent().transformed(top.transAxes.inverted())
    assert box.x0 > 0
    assert box.x1 < 1
    highest = max(np.nanmax(line.get_ydata()) for line in top.lines if len(line.get_ydata()))
    assert top.transData.transform((1, highest))[1] < legend.get_window_extent().y0


def test_a_part_of_a_figure_gets_what_a_figure_gets():
    _, sides = both()
    alone = spectrum(QUANTITIES[0], *sides, note="a model")
    figure = Figure(figsize=(12.0, 6.4))
    parts = figure.subfigures(1, 2)
    for part in parts:
        draw_spectrum(part, QUANTITIES[0], *sides, note="a model")
    with matplotlib.rc_context(figures.STYLE):
        assert_legible(figure)
    assert len(figure.axes) == 6
    for part in parts:
        for one, other in zip(alone.axes, part.axes, strict=True):
            assert one.get_ylabel() == other.get_ylabel()
            assert one.get_xlim() == other.get_xlim()
            for line, same in zip(one.lines, other.lines, strict=True):
                np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


UNITS = {
    "mass": r"/ p_T^\mathrm{jet}",
    "pt": r"/ $p_T^\mathrm{jet}$",
    "phirel": "[rad]",
    "ptrel": r"/ p_T^\mathrm{jet}",
}


@pytest.mark.parametrize("name", UNITS)
def test_axes_name_the_unit(name):
    quantity = next(quantity for quantity in QUANTITIES if quantity.name == name)
    assert UNITS[name] in quantity.label


def test_every_observable_is_drawn():
    single = {metric.parts[0] for metric in METRICS if len(metric.parts) == 1}
    assert {quantity.name for quantity in QUANTITIES} == {*single, DELTA_R}


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda q: q.name)
def test_a_histogram_counts_everything(quantity):
    _, (_, reference) = both()
    edges = edges_of(quantity, reference, reference)
    got = Histogram.of(quantity, reference, edges)
    values = reference.column(quantity.name)[0].numpy()
    width = np.diff(np.log10(edges) if quantity.log_x else edges)
    counts, _ = np.histogram(values, edges)
    np.testing.assert_allclose(got.density * width * len(values), counts, atol=1e-9)
    inside = (got.density * width).sum()
    assert inside + got.below + got.above == pytest.approx(1.0)
    assert inside > 0.95
    assert (np.diff(edges) > 0).all()
    if len(values) == 200:  # one entry per jet: binomial
        fraction = counts / 200
        expected = np.sqrt(fraction * (1 - fraction) / 200)
        np.testing.assert_allclose(got.error * width, expected, atol=1e-12)


def test_the_errors_of_particle_spectra_are_those_of_many_samples():
    """The particles of a jet share its direction: counting them one by one would be too sure."""
    quantity = next(quantity for quantity in QUANTITIES if quantity.name == "etarel")
    samples = []
    for seed in range(80):
        side = jets(n=100, seed=seed)
        tilt = torch.randn(100, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
        samples.append(observables(side.x + 0.3 * tilt, side.mask))
    edges = np.linspace(-0.6, 0.6, 13)
    many = [Histogram.of(quantity, sample, edges) for sample in samples]
    scatter = np.std([h.density for h in many], axis=0)
    claimed = np.sqrt(np.mean([h.error**2 for h in many], axis=0))
    np.testing.assert_allclose(claimed, scatter, rtol=0.3)
    naive = np.sqrt(np.mean([h.density for h in many], axis=0) / 700 / 0.1)
    assert (claimed / naive).min() > 1.2


@pytest.mark.parametrize("draw", [jet_images, example_jets])
def test_images_and_examples_are_labelled_and_legible(draw):
    (generated, reference), _ = both()
    with matplotlib.rc_context(figures.STYLE):
        figure = draw(generated, reference)
        assert_legible(figure)
    shown = " ".join(text.get_text() for text in texts(figure))
    for label in (r"\eta^\mathrm{rel}", r"\phi^\mathrm{rel}$ [rad]", "Reference", "Generated"):
        assert label in shown
    if draw is jet_images:
        assert "per pixel" in shown
        assert "Generated / reference" in shown


def test_an_image_holds_the_momentum_of_the_jets():
    (generated, _), _ = both()
    image, error = images._image(generated, np.linspace(-5, 5, 11))
    x = torch.nan_to_num(generated.x)
    assert image.sum() == pytest.approx((x[..., 2].sum() / len(generated)).item())
    assert image.shape == error.shape == (10, 10)
    assert np.isinf(error[image == 0]).all()
    one_sided = SetBatch(x + torch.tensor([2.0, 0.0, 0.0]), generated.mask)
    image, _ = images._image(one_sided, np.linspace(-5, 5, 11))
    assert image[5:].sum() > 0.99 * image.sum()  # etarel is the first axis


@pytest.mark.parametrize("draw", [joint_spectra, correlations])
def test_correlations_are_labelled_and_legible(draw):
    _, sides = both()
    with matplotlib.rc_context(figures.STYLE):
        figure = draw(*(side.sample for side in sides))
        assert_legible(figure)
    shown = " ".join(text.get_text() for text in texts(figure))
    for label in (r"\tau_{21}", "D_2", "Reference", "Generated"):
        assert label in shown


def test_pairs_are_those_of_the_hardest_particles():
    x = torch.zeros(1, 12, 3, dtype=F64)
    x[0, :, 2] = torch.arange(12, 0, -1)
    x[0, 11, 0] = 5.0  # the softest ones make no pairs
    x[0, 0, 0] = 0.5
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[0, 1] = False
    values, jet = with_pairs(observables(x, mask)).column(DELTA_R)
    assert sorted(values.tolist()) == [0.0] * 36 + [0.5] * 9
    assert set(jet.tolist()) == {0}


def test_all_pictures_are_drawn_and_nothing_global_is_touched():
    sides, measured = both(dtype=torch.float32)
    before = dict(matplotlib.rcParams)
    open_ones = matplotlib.pyplot.get_fignums()
    results = compare(*sides, pairs=2).metrics
    drawn = draw_jets(sides, tuple(s.sample for s in measured), results, jet_pt=1000.0)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == open_ones
    assert len(drawn) == len(QUANTITIES) + 4
    with matplotlib.rc_context(figures.STYLE):
        assert_legible(drawn["mass"])
    shown = {text.get_text().strip() for text in texts(drawn["mass"])}
    assert {"W", "t"} <= shown
    assert any("[GeV]" in text for text in shown)


def result(value, floor, spread):
    return Result(value, 0.1, floor, spread, 0.0, 0.0, "jet pT", "at the floor")


def test_the_note_gives_unit_and_two_digits_of_the_spread():
    note = figures.note_of("mass", METRICS, {"w1m": result(2.347e-3, 1.234e-3, 0.234e-3)})
    assert note == r"$W_1$ = 2.35 $\times\, 10^{-3}$ jet pT, truth to truth 1.23 $\pm$ 0.23"
    exact = figures.note_of("mass", METRICS, {"w1m": result(2.347e-3, 1.234e-3, 0.0)})
    assert "2.347" in exact
    assert figures.note_of("delta_r", METRICS, {}) == ""


def filled(density, error):
    edges = np.arange(len(density) + 1.0)
    density, error = np.array(density), np.array(error)
    return Histogram(edges, density, error, 0.0, 0.0, "jets", edges[1:] - 0.5)


def test_a_chi2_sums_the_pulls_of_the_bins_that_are_known():
    truth = filled([0.4, 0.3, 0.3, 0.001], [0.03, 0.03, 0.04, 0.001])
    model = filled([0.3, 0.4, 0.3, 0.002], [0.04, 0.04, 0.03, 0.002])
    pulls = pulls_of(truth, model)
    np.testing.assert_allclose(pulls, [-2, 2, 0, np.nan], atol=1e-12)
    assert chi2_of(truth, model) == (pytest.approx(8.0), 3)


def test_the_chi2_of_one_law_is_its_number_of_bins():
    """Over 40 pairs of samples of one law, mean and scatter of chi2 / ndf."""
    found = []
    quantity = QUANTITIES[0]
    for seed in range(40):
        sides = [
            observables(s.x, s.mask) for s in (jets(600, seed=seed), jets(600, seed=seed + 99))
        ]
        edges = edges_of(quantity, *sides)
        chi2, ndf = chi2_of(*(Histogram.of(quantity, side, edges) for side in sides))
        found.append(chi2 / ndf)
    assert np.mean(found) == pytest.approx(1.0, abs=0.15)


def test_what_lies_beyond_the_panels_gets_an_arrow():
    x = jets(4000, seed=1)
    truth = observables(x.x, x.mask)
    other = observables(x.x * torch.tensor([2.0, 2.0, 1.0]), x.mask)
    figure = spectrum(QUANTITIES[0], other, truth)
    _, ratio, pull = figure.axes
    assert ratio.texts
    assert pull.texts


def test_what_cannot_be_is_within_the_range():
    """Particles whose pT exceeds that of the jet are seen, in a part of the panel that says so."""
    one = jets(300, seed=1)
    x = torch.nan_to_num(one.x)
    x[..., 2] *= 1.0 / x[..., 2].sum(-1, keepdim=True)
    truth, wrong = observables(x, one.mask), observables(x * 1.05, one.mask)
    for name in ("pt", "ptrel"):
        quantity = next(quantity for quantity in QUANTITIES if quantity.name == name)
        assert edges_of(quantity, truth, wrong)[-1] > 1.05
    assert any(len(axes.patches) for axes in spectrum(QUANTITIES[1], wrong, truth).axes[1:])


def test_multiplicities_are_drawn_over_their_whole_range():
    few, many = jets(300, slots=4, seed=1), jets(300, slots=30, seed=2)
    sides = [observables(side.x, side.mask) for side in (few, many)]
    edges = edges_of(QUANTITIES[2], sides[1], sides[0])
    lows, highs = zip(*((s.multiplicity.min(), s.multiplicity.max()) for s in sides), strict=True)
    assert edges[0] < min(lows)
    assert edges[-1] > max(highs)


def odd_samples():
    x = jets(n=5).x
    mask = torch.zeros(5, 10, dtype=torch.bool)
    mask[:, 0] = True
    yield "one particle each", SetBatch(torch.nan_to_num(x), mask)
    two = mask.clone()
    two[:, 1] = True
    yield "all alike", SetBatch(torch.full_like(x, 0.1), two)
    yield "two jets", jets(n=2)
    yield "negative momenta", SetBatch(torch.nan_to_num(x) - 1.0, two)
    far = jets(n=50)
    yield "far away", SetBatch(far.x + 30.0, far.mask)


@pytest.mark.parametrize("odd", [pytest.param(s, id=name) for name, s in odd_samples()])
def test_odd_samples_are_drawn_on_either_side(odd):
    usual = jets(n=40)
    for generated, reference in ((odd, usual), (usual, odd)):
        measured = [observables(s.x, s.mask) for s in (generated, reference)]
        of_generated, of_reference = map(with_pairs, measured)
        for quantity in QUANTITIES:
            spectrum(quantity, of_generated, of_reference).canvas.draw()
        joint_spectra(*measured).canvas.draw()
        correlations(*measured).canvas.draw()
        jet_images(generated, reference).canvas.draw()
        example_jets(generated, reference).canvas.draw()
