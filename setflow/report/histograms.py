"""Histograms of observables: what a spectrum shows, its error, and how far two are apart.

A spectrum shows f_b, the fraction of all entries that fall into bin b, divided by the width of the
bin (in log10 on a logarithmic axis, so that areas can be compared by eye); entries outside the
range count in the total and are stated in the picture. With n_jb entries of jet j in the bin and
N_j in all, the statistical variance is

    var(f_b) = sum_j (n_jb - f_b N_j)^2 / (sum_j N_j)^2,

since jets are independent and the particles of one jet are not; for one entry per jet this is the
binomial variance. The entries of a weighted jet count w_j each, and n_jb and N_j are multiplied by
it; with negative weights a fraction may be below 0.

The pull of a bin is (generated - reference) / error of the difference; a chi2 sums its squares over
the bins in which both together have 10 entries or more, and has as many degrees of freedom. It
takes bins for independent.

Bins follow the quantiles of the reference, reach beyond what is physically possible where there is
such an end, and are the same on both sides; those of whole numbers reach over all values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from setflow.physics.metrics import Measured
from setflow.report.style import Array, as_numpy

__all__ = ["Histogram", "Quantity", "chi2_of", "edges_of", "pulls_of"]


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
        end: the largest value that is physically possible, shown with what lies beyond; or None.
        marks: values to mark, by what they are called.
        gev: the jet pT in GeV for a second scale above, in GeV; None draws none.
        events: what events are called.
        entries: what those entries are of which an event has several.
        ticks: what the whole numbers from 0 stand for, on the axis; empty for numbers.
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
    end: float | None = None
    marks: tuple[tuple[float, str], ...] = ()
    gev: float | None = None
    events: str = "jets"
    entries: str = "particles"
    ticks: tuple[str, ...] = ()


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
    >>> number = Quantity("multiplicity", "N", "N")
    >>> histogram = Histogram.of(number, jets, np.array([1.5, 2.5, 3.5]))
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


def edges_of(quantity: Quantity, reference: Measured, generated: Measured) -> Array:
    """Return bin edges that fit the reference: its quantiles, and as many bins as jets can fill.

    Weighted jets count by the size of their weights, since those of either sign have to be seen.
    """
    values, jet = (as_numpy(column) for column in reference.column(quantity.name))
    sizes = None if reference.weight is None else np.abs(as_numpy(reference.weight))[jet]
    jets = min(generated.effective, reference.effective)
    bins = int(np.clip(2.3 * jets ** (1 / 3), 8, 50))
    if quantity.ticks:
        return np.arange(len(quantity.ticks) + 1, dtype=np.float64) - 0.5
    if quantity.integer:
        both = np.concatenate([values, as_numpy(generated.column(quantity.name)[0])])
        low, high = (math.floor(both.min()) - 1, math.ceil(both.max()) + 1) if len(both) else (0, 1)
        step = math.ceil((high - low + 1) / max(bins, 40))
        low = low if len(both) and both.min() < 0 else max(low, 0)  # numbers of objects begin at 0
        return np.arange(low, high + step + 1, step) - 0.5
    if quantity.log_x:
        good = values > 0
        sizes = None if sizes is None or not good.any() else sizes[good]
        positive = values[good] if good.any() else np.ones(1)
        low, high = _quantiles(positive, quantity.tail, sizes)
        if high < 1.01 * low:
            low, high = low / 2, high * 2
        if quantity.end is not None:
            high = max(high, 1.3 * quantity.end)
        return np.geomspace(low, high, bins + 1)
    low, high = _quantiles(values, quantity.tail, sizes)
    if quantity.bound is not None and low - quantity.bound < 0.25 * (high - low):
        low = quantity.bound
    missing = max(0.0, quantity.least - (high - low))
    low, high = low - missing / 2, high + missing / 2
    if quantity.end is not None and high > 0.5 * quantity.end:
        high = max(high, quantity.end + max(0.15 * (quantity.end - low), 0.1 * quantity.end))
    return np.linspace(low, high, bins + 1)


def _quantiles(values: Array, tail: float, sizes: Array | None) -> Array:
    """Return the values that leave out `tail` on either side, of entries with sizes if given."""
    if not len(values):
        return np.array([0.0, 1.0])
    ends = [tail, 1 - tail]
    if sizes is None:
        return np.quantile(values, ends)
    return np.quantile(values, ends, weights=sizes, method="inverted_cdf")  # no other takes them


def chi2_of(truth: Histogram, model: Histogram) -> tuple[float, int]:
    """Return the chi2 between two histograms of the same edges, and its degrees of freedom.

    Arguments:
        truth: that of the reference.
        model: that of the generated events.
    """
    pull = pulls_of(truth, model)
    known = np.isfinite(pull)
    return float((pull[known] ** 2).sum()), int(known.sum())


def pulls_of(truth: Histogram, model: Histogram) -> Array:
    """Return the pull of each bin, NaN where both sides together have fewer than 10 entries.

    Of entries that come several from a jet those that are worth as many independent ones count.
    """
    variance = truth.error**2 + model.error**2
    entries = (truth.density + model.density) ** 2 / np.where(variance > 0, variance, np.inf)
    pull = np.full(len(variance), np.nan)
    known = entries >= 10
    pull[known] = (model.density - truth.density)[known] / np.sqrt(variance[known])
    return pull
