"""Pictures of a comparison: reference against generated, as PNG files.

A spectrum shows f_b, the fraction of all entries that fall into bin b, divided by the width of the
bin (in log10 on a logarithmic axis, so that areas can be compared by eye); entries outside the
range count in the total and are stated in the picture. With n_jb entries of jet j in the bin and
N_j in all, the statistical variance is

    var(f_b) = sum_j (n_jb - f_b N_j)^2 / (sum_j N_j)^2,

since jets are independent and the particles of one jet are not; for one entry per jet this is the
binomial variance. The entries of a weighted jet count w_j each, and n_jb and N_j are multiplied by
it; with negative weights a fraction may be below 0. Below it stands generated / reference, with the
error of the generated sample as bars and that of the reference as a band around 1. Bins follow the
quantiles of the reference and are the same on both sides.

Figures are `matplotlib.figure.Figure` objects, made without pyplot's global state, in the style of
mplhep and without the label of any experiment. Quantities are relative to the jet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from setflow.physics.metrics import METRICS, Floor, Measured, Metric
from setflow.report.images import example_jets, jet_images
from setflow.report.style import (
    BAND,
    ETA,
    GENERATED,
    JET_PT,
    MASS,
    PHI,
    PTREL,
    REFERENCE,
    STYLE,
    Array,
    as_numpy,
)
from setflow.sets.batch import SetBatch

__all__ = ["QUANTITIES", "Histogram", "Quantity", "draw_spectrum", "spectrum", "write_plots"]


@dataclass(frozen=True)
class Quantity:
    """One observable and how it is drawn.

    Arguments:
        name: the name of the observable, a column of `Observables`.
        label: the axis label, with the unit if there is one.
        symbol: the symbol in it, in TeX without dollars.
        log_x: whether bins are equal in the logarithm.
        log_y: whether the spectrum is so steep that it needs a logarithmic axis.
        integer: whether values are whole numbers.
        tail: the fraction of the reference that is left out on either side of the range.
        bound: the lowest possible value, from which to start if the spectrum comes near; or None.
        least: the smallest range to draw, however narrow the reference is.
        events: what events are called.
        entries: what those entries are of which an event has several.
    """

    name: str
    label: str
    symbol: str
    log_x: bool = False
    log_y: bool = False
    integer: bool = False
    tail: float = 1e-3
    bound: float | None = None
    least: float = 0.01
    events: str = "jets"
    entries: str = "particles"


QUANTITIES = (
    Quantity("mass", MASS, rf"({MASS.strip('$')})", bound=0.0),
    Quantity("pt", rf"$p_T$ of the particles' sum / ${JET_PT}$", rf"(p_T / {JET_PT})", least=0.05),
    Quantity("multiplicity", "Number of particles $N$", "N", integer=True),
    Quantity("tau21", r"$\tau_{21} = \tau_2 / \tau_1$", r"\tau_{21}", bound=0.0),
    Quantity("efp", rf"EFP of the square graph / $({JET_PT})^4$", r"\mathrm{EFP}", log_x=True),
    Quantity("etarel", ETA, r"\eta^\mathrm{rel}", log_y=True),
    Quantity("phirel", PHI, r"\phi^\mathrm{rel}", log_y=True),
    Quantity("ptrel", PTREL, r"p_T^\mathrm{rel}", log_x=True, log_y=True),
)
"""The spectra that `write_plots` draws, in this order."""


def spectrum(
    quantity: Quantity, generated: Measured, reference: Measured, *, note: str = ""
) -> Figure:
    """Draw the spectrum of one observable on both sides, and the ratio generated / reference.

    Arguments:
        quantity: the observable.
        generated: the observables of the generated jets.
        reference: those of the reference.
        note: a last line for the legend.

    Ratios are drawn where the reference is known to 40% or better; a triangle at the edge of the
    panel stands for one beyond it.
    """
    figure = Figure(figsize=(6.0, 5.8))
    draw_spectrum(figure, quantity, generated, reference, note=note)
    return figure


def draw_spectrum(
    figure: Figure | SubFigure,
    quantity: Quantity,
    generated: Measured,
    reference: Measured,
    *,
    note: str = "",
) -> None:
    """Draw what `spectrum` draws into a figure, or into a part of one's own.

    Arguments:
        figure: where to draw, about 6 inches wide and as high.
        quantity: the observable.
        generated: the observables of the generated jets.
        reference: those of the reference.
        note: a last line for the legend.

    >>> from matplotlib.figure import Figure
    >>> from setflow.physics.metrics import observables
    >>> a, b = (observables(torch.rand(50, 8, 3)) for _ in range(2))
    >>> figure = Figure(figsize=(12.0, 5.8))
    >>> for part, quantity in zip(figure.subfigures(1, 2), QUANTITIES):
    ...     draw_spectrum(part, quantity, a, b)
    >>> [axes.get_ylabel() for axes in figure.subfigs[0].axes][1]
    'Gen. / ref.'
    """
    edges = _edges(quantity, reference, min(generated.effective, reference.effective))
    truth, model = (Histogram.of(quantity, side, edges) for side in (reference, generated))
    with matplotlib.rc_context(STYLE):
        place = {"left": 0.145, "right": 0.97, "bottom": 0.115, "top": 0.975, "hspace": 0.07}
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1), gridspec_kw=place)
        _draw_densities(top, quantity, truth, model, note)
        _draw_ratio(bottom, truth, model)
        if quantity.log_x:
            bottom.set_xscale("log")
        elif quantity.integer:
            bottom.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            bottom.xaxis.set_minor_locator(NullLocator())
        else:
            bottom.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
            bottom.ticklabel_format(axis="x", useOffset=False)
        bottom.set_xlim(edges[0], edges[-1])
        bottom.set_xlabel(quantity.label)
        for axes in (top, bottom):
            axes.yaxis.set_label_coords(-0.115, axes.yaxis.label.get_position()[1])


@dataclass(frozen=True)
class Histogram:
    """The spectrum of one observable, as this module's formulas have it.

    Arguments:
        edges: the edges of the bins, with shape `(bins + 1,)`.
        density: the fraction of all entries in each bin over its width, in log10 on a logarithmic
            axis, with shape `(bins,)`.
        error: its statistical error, with shape `(bins,)`.
        below: the fraction of all entries below the first edge.
        above: the fraction above the last one.
        size: how many jets and particles there are, in words, and what weighted jets are worth.
        centres: the middles of the bins, with shape `(bins,)`.

    >>> from setflow.physics.metrics import observables
    >>> jets = observables(torch.full((4, 3, 3), 0.25))
    >>> histogram = Histogram.of(QUANTITIES[2], jets, np.array([1.5, 2.5, 3.5]))
    >>> histogram.density.tolist(), histogram.size
    ([0.0, 1.0], '4 jets')
    """

    edges: Array
    density: Array
    error: Array
    below: float
    above: float
    size: str
    centres: Array

    @classmethod
    def of(cls, quantity: Quantity, sample: Measured, edges: Array) -> Histogram:
        """Fill it with the observable of all jets, or of all their particles.

        Arguments:
            quantity: the observable, and whether its axis is logarithmic.
            sample: the observables of the jets.
            edges: the edges of the bins, rising, with shape `(bins + 1,)`.
        """
        values, jet = (as_numpy(column) for column in sample.column(quantity.name))
        jets, bins = len(sample), len(edges) - 1
        place = np.searchsorted(edges, values, side="right") - 1
        place[values == edges[-1]] = bins - 1
        inside = (place >= 0) & (place < bins)
        cells = np.bincount(jet[inside] * bins + place[inside], minlength=jets * bins)
        cells = cells.reshape(jets, bins)
        per_jet = np.bincount(jet, minlength=jets)
        entry = np.ones(len(values), np.int64)  # what each counts
        if sample.weight is not None:
            weight = as_numpy(sample.weight)
            cells, per_jet, entry = weight[:, None] * cells, weight * per_jet, weight[jet]
        total = entry.sum() or 1
        fraction = cells.sum(0) / total
        variance = (cells**2).sum(0) - 2 * fraction * (per_jet @ cells)
        variance = variance + fraction**2 * (per_jet**2).sum()
        width = np.diff(np.log10(edges) if quantity.log_x else edges)
        size = f"{jets:,} {quantity.events}"
        if sample.weight is not None:
            size += f", worth {sample.effective:,.0f}"
        middle = (
            10 ** (np.log10(edges[1:]) - width / 2) if quantity.log_x else edges[1:] - width / 2
        )
        return cls(
            edges=edges,
            density=fraction / width,
            error=np.sqrt(np.clip(variance, 0.0, None)) / total / width,
            below=float(entry[place < 0].sum() / total),
            above=float(entry[place >= bins].sum() / total),
            centres=middle,
            size=size if len(values) == jets else f"{size}, {len(values):,} {quantity.entries}",
        )


def _edges(quantity: Quantity, reference: Measured, jets: float) -> Array:
    """Return bin edges that fit the reference: its quantiles, and as many bins as jets can fill.

    Weighted jets count by the size of their weights, since those of either sign have to be seen.
    """
    values, jet = (as_numpy(column) for column in reference.column(quantity.name))
    sizes = None if reference.weight is None else np.abs(as_numpy(reference.weight))[jet]
    bins = int(np.clip(2.3 * jets ** (1 / 3), 8, 50))
    if quantity.log_x:
        good = values > 0
        sizes = None if sizes is None or not good.any() else sizes[good]
        positive = values[good] if good.any() else np.ones(1)
        low, high = _quantiles(positive, quantity.tail, sizes)
        if high < 1.01 * low:
            low, high = low / 2, high * 2
        return np.geomspace(low, high, bins + 1)
    low, high = _quantiles(values, quantity.tail, sizes)
    if quantity.integer:
        low, high = max(math.floor(low) - 2, 0), math.ceil(high) + 2
        step = math.ceil((high - low + 1) / bins)
        return np.arange(low, high + step + 1, step) - 0.5
    if quantity.bound is not None and low - quantity.bound < 0.25 * (high - low):
        low = quantity.bound
    missing = max(0.0, quantity.least - (high - low))
    return np.linspace(low - missing / 2, high + missing / 2, bins + 1)


def _quantiles(values: Array, tail: float, sizes: Array | None) -> Array:
    """Return the values that leave out `tail` on either side, of entries with sizes if given."""
    ends = [tail, 1 - tail]
    if sizes is None:
        return np.quantile(values, ends)
    return np.quantile(values, ends, weights=sizes, method="inverted_cdf")  # no other takes them


def _draw_densities(
    axes: Axes, quantity: Quantity, truth: Histogram, model: Histogram, note: str
) -> None:
    edges = truth.edges
    common = {"ax": axes, "flow": "none"}
    fill = {"histtype": "fill", "color": REFERENCE, "alpha": 0.3}
    mplhep.histplot(
        truth.density, edges, label=f"Reference: {truth.size} (band: error)", **fill, **common
    )
    low, high = np.clip(truth.density - truth.error, 0.0, None), truth.density + truth.error
    axes.stairs(high, edges, baseline=low, fill=True, color=BAND, linewidth=0)
    points = {"histtype": "errorbar", "color": GENERATED, "markersize": 5, "elinewidth": 1.2}
    mplhep.histplot(
        np.where(model.density > 0, model.density, np.nan),
        edges,
        yerr=model.error,
        label=f"Generated: {model.size}",
        **points,
        **common,
    )
    variable = rf"\log_{{10}} {quantity.symbol}" if quantity.log_x else quantity.symbol
    axes.set_ylabel(rf"$(1/n)\; \mathrm{{d}}n / \mathrm{{d}}{variable}$")
    axes.set_xlabel("")
    both = np.concatenate([side.density + side.error for side in (truth, model)])
    peak = float(both.max(initial=0.0)) or 1.0
    if quantity.log_y:
        lowest = float(truth.density[truth.density > 0].min(initial=peak)) / 3
        axes.set_ylim(lowest, peak * (peak / lowest) ** 0.55)
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.55 * peak)
    outside = "; ".join(
        f"{name} {side.below:.1%}, {side.above:.1%}"
        for name, side in (("ref.", truth), ("gen.", model))
    )
    title = f"{note}\nOutside (below, above): {outside}".lstrip()
    axes.legend(loc="upper left", title=title, alignment="left")


def _draw_ratio(axes: Axes, truth: Histogram, model: Histogram) -> None:
    safe = np.where(truth.density > 0, truth.density, 1.0)
    known = (truth.density > 0) & (truth.error < 0.4 * safe)
    ratio, error = model.density / safe, model.error / safe
    band = np.where(known, truth.error / safe, 0.0)
    axes.stairs(1 + band, truth.edges, baseline=1 - band, fill=True, color=BAND)
    axes.axhline(1.0, color="black", linewidth=1.0)

    off = np.abs(ratio[known] - 1)
    reach = next((r for r in (0.2, 0.5) if (off < 0.8 * r).mean() > 0.9), 1.0) if off.size else 1.0
    axes.set_ylim(1 - reach, 1 + reach)
    axes.yaxis.set_major_locator(FixedLocator([1 - reach / 2, 1, 1 + reach / 2]))
    centres = truth.centres
    shown = known & (np.abs(ratio - 1) <= reach)
    style: dict[str, Any] = {"color": GENERATED, "markersize": 5}
    axes.errorbar(centres[shown], ratio[shown], error[shown], fmt=".", elinewidth=1.2, **style)
    for beyond, marker, edge in ((ratio > 1 + reach, "^", 0.93), (ratio < 1 - reach, "v", 0.07)):
        place = centres[known & beyond]
        height = np.full(len(place), edge)
        axes.plot(place, height, marker, transform=axes.get_xaxis_transform(), **style)
    axes.set_ylabel("Gen. / ref.", loc="center")


def write_plots(
    folder: Path,
    generated: SetBatch,
    reference: SetBatch,
    generated_observables: Measured,
    reference_observables: Measured,
    values: dict[str, float],
    floor: Floor,
) -> list[str]:
    """Write every picture of a comparison into a folder as PNG.

    Arguments:
        folder: where to, an existing folder.
        generated: the generated jets, with `x` of shape `(n, N, 3)` and `mask` `(n, N)`.
        reference: those of the reference.
        generated_observables: the observables of the generated jets.
        reference_observables: those of the reference.
        values: the metrics between the two, by name.
        floor: the metrics between parts of the reference.

    Returns:
        The names of the files.
    """
    figures = {
        quantity.name: spectrum(
            quantity,
            generated_observables,
            reference_observables,
            note=note_of(quantity.name, METRICS, values, floor),
        )
        for quantity in QUANTITIES
    }
    figures["jet_images"] = jet_images(generated, reference)
    figures["example_jets"] = example_jets(generated, reference)
    with matplotlib.rc_context(STYLE):
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
    return [f"{name}.png" for name in figures]


def note_of(name: str, metrics: Sequence[Metric], values: dict[str, float], floor: Floor) -> str:
    """Return the line that gives the W1 of an observable beside its floor."""
    metric = next(metric for metric in metrics if metric.parts == (name,))
    power = round(math.log10(metric.scale))
    times = rf" $\times\, 10^{{{power}}}$" if power else ""
    value, mean, spread = (
        number / metric.scale
        for number in (values[metric.name], floor.mean[metric.name], floor.spread[metric.name])
    )
    digits = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 3
    text = rf"({mean:.{digits}f} $\pm$ {spread:.{digits}f})"
    kind = "scaled floor" if floor.scaled else "floor"
    return rf"$W_1$ = {value:.{digits}f}{times}, {kind} {text}{times}"
