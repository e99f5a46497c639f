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
from setflow.physics import METRICS, distances, truth_floor
from setflow.physics.metrics import observables
from setflow.report import figures, images
from setflow.report.figures import QUANTITIES, draw_spectrum, spectrum, write_plots
from setflow.report.images import example_jets, jet_images

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
    return sides, tuple(observables(side.x, side.mask) for side in sides)


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
    top, bottom = figure.axes
    assert bottom.get_xlabel() == quantity.label
    assert quantity.symbol in top.get_ylabel()
    assert bottom.get_ylabel() == "Gen. / ref."
    assert bottom.get_xscale() == ("log" if quantity.log_x else "linear")
    assert top.get_yscale() == ("log" if quantity.log_y else "linear")
    legend = top.get_legend()
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries[0].startswith("Reference: 200 jets")
    assert entries[1].startswith("Generated: 300 jets")
    title = legend.get_title().get_text()
    assert title.startswith("W1 = 1.23, floor (1.00 ± 0.20)\nOutside (below, above): ref.")
    figure.canvas.draw()
    box = legend.get_window_extent().transformed(top.transAxes.inverted())
    assert box.x0 > 0
    assert box.x1 < 1
    highest = max(np.nanmax(line.get_ydata()) for line in top.lines if len(line.get_ydata()))
    assert top.transData.transform((1, highest))[1] < legend.get_window_extent().y0


def test_a_part_of_a_figure_gets_what_a_figure_gets():
    _, sides = both()
    alone = spectrum(QUANTITIES[0], *sides, note="a model")
    figure = Figure(figsize=(12.0, 5.8))
    parts = figure.subfigures(1, 2)
    for part in parts:
        draw_spectrum(part, QUANTITIES[0], *sides, note="a model")
    with matplotlib.rc_context(figures.STYLE):
        assert_legible(figure)
    assert len(figure.axes) == 4
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
    "efp": r"p_T^\mathrm{jet})^4",
}


@pytest.mark.parametrize("name", UNITS)
def test_axes_name_the_unit(name):
    quantity = next(quantity for quantity in QUANTITIES if quantity.name == name)
    assert UNITS[name] in quantity.label


def test_every_observable_is_drawn():
    parts = {part for metric in METRICS for part in metric.parts}
    assert {quantity.name for quantity in QUANTITIES} == parts


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda q: q.name)
def test_a_histogram_counts_everything(quantity):
    _, (_, reference) = both()
    edges = figures._edges(quantity, reference, 200)
    got = figures.Histogram.of(quantity, reference, edges)
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
    many = [figures.Histogram.of(quantity, sample, edges) for sample in samples]
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


def test_all_pictures_are_written_and_nothing_global_is_touched(tmp_path):
    (generated, reference), (of_generated, of_reference) = both(dtype=torch.float32)
    floor = truth_floor(of_reference, 100, 100, pairs=2, generator=torch.Generator().manual_seed(0))
    before = dict(matplotlib.rcParams)
    figures = matplotlib.pyplot.get_fignums()
    values = distances(of_generated, of_reference)
    names = write_plots(tmp_path, generated, reference, of_generated, of_reference, values, floor)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == figures
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == len(QUANTITIES) + 2
    for name in names:
        pixels = matplotlib.image.imread(tmp_path / name)
        assert min(pixels.shape[:2]) > 500
        assert pixels[..., :3].std() > 0.05


def test_the_note_gives_two_digits_of_the_spread():
    _, (_, reference) = both()
    floor = truth_floor(reference, 100, 100, pairs=2, generator=torch.Generator().manual_seed(0))
    floor.mean["w1m"], floor.spread["w1m"] = 1.234e-3, 0.234e-3
    note = figures.note_of("mass", METRICS, {"w1m": 2.347e-3}, floor)
    assert note.startswith(r"$W_1$ = 2.35 $\times\, 10^{-3}$, floor (1.23 $\pm$ 0.23)")
    floor.spread["w1m"] = 0.0
    assert "2.347" in figures.note_of("mass", METRICS, {"w1m": 2.347e-3}, floor)


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
        of_generated, of_reference = (observables(s.x, s.mask) for s in (generated, reference))
        for quantity in QUANTITIES:
            spectrum(quantity, of_generated, of_reference).canvas.draw()
        jet_images(generated, reference).canvas.draw()
        example_jets(generated, reference).canvas.draw()
