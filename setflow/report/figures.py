"""Pictures of a comparison: reference against generated, as PNG files.

A spectrum is that of `setflow.report.histograms`. Below it stand

    ratio    generated / reference, with the error of the generated sample as bars and that of the
             reference as a hatched band around 1; from 0.5 to 1.5 in all pictures, and an arrow at
             the edge for what is beyond,
    pull     (generated - reference) / error of the difference.

Figures are `matplotlib.figure.Figure` objects, made without pyplot's global state, in the style of
mplhep and without the label of any experiment. Quantities are relative to the jet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from setflow.physics.metrics import METRICS, Measured, Metric, Observables
from setflow.report.correlations import (
    DELTA_R,
    PAIRED,
    correlations,
    joint_spectra,
    with_pairs,
)
from setflow.report.histograms import (
    Histogram,
    Quantity,
    chi2_of,
    edges_of,
    pulls_of,
)
from setflow.report.images import example_jets, jet_images
from setflow.report.judging import Result
from setflow.report.style import (
    ETA,
    GENERATED,
    HATCHED,
    IMPOSSIBLE,
    JET_PT,
    MASS,
    PHI,
    PTREL,
    REFERENCE,
    STYLE,
    Array,
    Mask,
)
from setflow.sets.batch import SetBatch

__all__ = [
    "QUANTITIES",
    "draw_jets",
    "draw_spectrum",
    "note_of",
    "spectrum",
]


QUANTITIES = (
    Quantity("mass", MASS, rf"({MASS.strip('$')})", bound=0.0),
    Quantity(
        "pt",
        rf"$p_T$ of the particles' sum / ${JET_PT}$",
        rf"(p_T / {JET_PT})",
        least=0.05,
        end=1.0,
    ),
    Quantity("multiplicity", "Number of particles $N$", "N", integer=True),
    Quantity("tau21", r"$\tau_{21} = \tau_2 / \tau_1$", r"\tau_{21}", bound=0.0),
    Quantity("tau32", r"$\tau_{32} = \tau_3 / \tau_2$", r"\tau_{32}", bound=0.0),
    Quantity("d2", r"$D_2 = e_3 / e_2^3$", "D_2", bound=0.0, tail=5e-3),
    Quantity("etarel", ETA, r"\eta^\mathrm{rel}", log_y=True),
    Quantity("phirel", PHI, r"\phi^\mathrm{rel}", log_y=True),
    Quantity("ptrel", PTREL, r"p_T^\mathrm{rel}", log_x=True, log_y=True, end=1.0),
    Quantity(
        DELTA_R,
        rf"$\Delta R$ of pairs of the {PAIRED} hardest particles",
        r"\Delta R",
        bound=0.0,
        entries="pairs",
    ),
)
"""The spectra of jets, in this order."""


def spectrum(
    quantity: Quantity,
    generated: Measured,
    reference: Measured,
    *,
    note: str = "",
    origin: str = "",
) -> Figure:
    """Draw the spectrum of one observable on both sides, their ratio, and the pull.

    Arguments:
        quantity: the observable.
        generated: the observables of the generated jets.
        reference: those of the reference.
        note: a line for the legend.
        origin: a line above, such as what is compared.

    Ratios are drawn where the reference is known to 40% or better.
    """
    figure = Figure(figsize=(6.0, 6.4))
    draw_spectrum(figure, quantity, generated, reference, note=note, origin=origin)
    return figure


def draw_spectrum(
    figure: Figure | SubFigure,
    quantity: Quantity,
    generated: Measured,
    reference: Measured,
    *,
    note: str = "",
    origin: str = "",
) -> None:
    """Draw what `spectrum` draws into a figure, or into a part of one's own.

    Arguments:
        figure: where to draw, about 6 inches wide and as high.
        quantity: the observable.
        generated: the observables of the generated jets.
        reference: those of the reference.
        note: a line for the legend.
        origin: a line above.

    >>> from matplotlib.figure import Figure
    >>> from setflow.physics.metrics import observables
    >>> a, b = (observables(torch.rand(50, 8, 3)) for _ in range(2))
    >>> figure = Figure(figsize=(12.0, 6.4))
    >>> for part, quantity in zip(figure.subfigures(1, 2), QUANTITIES):
    ...     draw_spectrum(part, quantity, a, b)
    >>> [axes.get_ylabel() for axes in figure.subfigs[0].axes][1]
    'Gen. / ref.'
    """
    edges = edges_of(quantity, reference, generated)
    truth, model = (Histogram.of(quantity, side, edges) for side in (reference, generated))
    with matplotlib.rc_context(STYLE):
        high = 0.94 if quantity.gev is None else 0.865
        place = {"left": 0.145, "right": 0.97, "bottom": 0.1, "top": high, "hspace": 0.08}
        top, middle, bottom = figure.subplots(
            3, 1, sharex=True, height_ratios=(3, 1, 1), gridspec_kw=place
        )
        _draw_densities(top, quantity, truth, model, note)
        figure.text(0.145, 0.955, origin, fontsize=9.5, parse_math=False)
        if quantity.gev is not None:
            _add_gev(top, quantity.gev)
        _draw_ratio(middle, truth, model)
        _draw_pulls(bottom, truth, model)
        if quantity.log_x:
            bottom.set_xscale("log")
        elif quantity.ticks:
            bottom.set_xticks(range(len(quantity.ticks)), quantity.ticks)
            bottom.xaxis.set_minor_locator(NullLocator())
        elif quantity.integer:
            bottom.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            bottom.xaxis.set_minor_locator(NullLocator())
        else:
            bottom.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
            bottom.ticklabel_format(axis="x", useOffset=False)
        bottom.set_xlim(edges[0], edges[-1])
        bottom.set_xlabel(quantity.label)
        for axes in (top, middle, bottom):
            axes.yaxis.set_label_coords(-0.115, axes.yaxis.label.get_position()[1])
            if quantity.end is not None and edges[0] < quantity.end < edges[-1]:
                axes.axvspan(quantity.end, edges[-1], color=IMPOSSIBLE, zorder=0)


def _draw_densities(
    axes: Axes, quantity: Quantity, truth: Histogram, model: Histogram, note: str
) -> None:
    edges = truth.edges
    low, high = np.clip(truth.density - truth.error, 0.0, None), truth.density + truth.error
    band = axes.stairs(high, edges, baseline=low, **HATCHED)
    step = axes.stairs(truth.density, edges, color=REFERENCE, linewidth=1.5)
    there = model.density > 0
    points = axes.errorbar(
        truth.centres[there],
        model.density[there],
        model.error[there],
        fmt=".",
        color=GENERATED,
        markersize=5,
        elinewidth=1.2,
    )
    variable = rf"\log_{{10}} {quantity.symbol}" if quantity.log_x else quantity.symbol
    label = rf"$(1/n)\; \mathrm{{d}}n / \mathrm{{d}}{variable}$"
    axes.set_ylabel(f"Fraction of {quantity.entries}" if quantity.ticks else label)
    axes.set_xlabel("")
    both = np.concatenate([side.density + side.error for side in (truth, model)])
    peak = float(both.max(initial=0.0)) or 1.0
    if quantity.log_y or (quantity.integer and peak > 0.5):  # nearly all have the same number
        lowest = float(both[both > 0].min(initial=peak)) / 3
        axes.set_ylim(lowest, peak * (peak / lowest) ** 0.75)
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.75 * peak)
    for value, name in quantity.marks:
        if edges[0] < value < edges[-1]:
            axes.axvline(value, 0, 0.5, color="black", linestyle=":", linewidth=1.2)
            place: dict[str, Any] = {
                "xycoords": axes.get_xaxis_transform(),
                "ha": "left",
                "va": "top",
            }
            axes.annotate(f" {name}", (value, 0.5), fontsize=11, **place)
    chi2, ndf = chi2_of(truth, model)
    lines = [
        note,
        rf"$\chi^2$ / ndf = {chi2:.1f} / {ndf}" if ndf > 0 else "",
        _outside(truth, model),
    ]
    axes.legend(
        [(band, step), points],
        [f"Reference: {truth.size}", f"Generated: {model.size}"],
        loc="upper left",
        title="\n".join(filter(None, lines)),
        alignment="left",
    )


def _outside(truth: Histogram, model: Histogram) -> str:
    """Return how many entries lie outside of the range, where there are any."""
    if max(truth.below, truth.above, model.below, model.above) < 5e-4:
        return ""
    sides = (("ref.", truth), ("gen.", model))
    told = (f"{name} {side.below:.1%}, {side.above:.1%}" for name, side in sides)
    return f"Outside (below, above): {'; '.join(told)}"


def _draw_ratio(axes: Axes, truth: Histogram, model: Histogram) -> None:
    safe = np.where(truth.density > 0, truth.density, 1.0)
    known = (truth.density > 0) & (truth.error < 0.4 * safe)
    ratio, error = model.density / safe, model.error / safe
    band = np.where(known, truth.error / safe, 0.0)
    axes.stairs(1 + band, truth.edges, baseline=1 - band, **HATCHED)
    axes.axhline(1.0, color=REFERENCE, linewidth=1.2)
    axes.set_ylim(0.5, 1.5)
    axes.yaxis.set_major_locator(FixedLocator([0.75, 1, 1.25]))
    axes.yaxis.set_minor_locator(NullLocator())
    shown = known & (np.abs(ratio - 1) <= 0.5)
    style: dict[str, Any] = {"color": GENERATED, "markersize": 5}
    axes.errorbar(
        truth.centres[shown], ratio[shown], error[shown], fmt=".", elinewidth=1.2, **style
    )
    _arrows(axes, truth.centres, known & (ratio > 1.5), known & (ratio < 0.5))
    axes.set_ylabel("Gen. / ref.", loc="center", fontsize=11)


def _draw_pulls(axes: Axes, truth: Histogram, model: Histogram) -> None:
    pull = pulls_of(truth, model)
    axes.axhspan(-1, 1, color="#dddddd", linewidth=0)
    axes.axhline(0.0, color=REFERENCE, linewidth=1.2)
    shown = np.abs(pull) <= 5
    axes.stairs(np.where(shown, pull, 0.0), truth.edges, baseline=0, fill=True, color=GENERATED)
    _arrows(axes, truth.centres, pull > 5, pull < -5)
    axes.set_ylim(-5, 5)
    axes.yaxis.set_major_locator(FixedLocator([-3, 0, 3]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("Pull", loc="center", fontsize=11)


def _arrows(axes: Axes, centres: Array, above: Mask, below: Mask) -> None:
    """Draw arrows to what lies beyond the panel."""
    for beyond, start, end in ((above, 0.72, 0.98), (below, 0.28, 0.02)):
        for centre in centres[beyond]:
            axes.annotate(
                "",
                (centre, end),
                (centre, start),
                xycoords=axes.get_xaxis_transform(),
                arrowprops={"arrowstyle": "->", "color": GENERATED, "linewidth": 1.4},
            )


def draw_jets(
    batches: tuple[SetBatch, SetBatch],
    measured: tuple[Observables, Observables],
    results: Mapping[str, Result],
    *,
    origin: str = "",
    jet_pt: float | None = None,
) -> dict[str, Figure]:
    """Return every picture of a comparison of jets by its name.

    Arguments:
        batches: the generated jets, with `x` of shape `(n, N, 3)`, and those of the reference.
        measured: the observables of both.
        results: the metrics between the two, by name.
        origin: what is compared, in a line above each spectrum.
        jet_pt: the median jet pT of the reference in GeV, if it is known; the mass then has a scale
            in GeV too, with W and top quark marked.
    """
    drawn = {}
    sides = tuple(with_pairs(side) for side in measured)
    for quantity in QUANTITIES:
        if quantity.name == "mass" and jet_pt is not None:
            marks = tuple((mass / jet_pt, name) for mass, name in MASSES)
            quantity = replace(quantity, marks=marks, gev=jet_pt)
        note = note_of(quantity.name, METRICS, results)
        drawn[quantity.name] = spectrum(quantity, *sides, note=note, origin=origin)
    drawn["joint_spectra"] = joint_spectra(*measured)
    drawn["correlations"] = correlations(*measured)
    drawn["jet_images"] = jet_images(*batches)
    drawn["example_jets"] = example_jets(*batches)
    return drawn


MASSES = ((80.4, "W"), (172.7, "t"))
"""Masses that are marked, in GeV, and whose they are."""


def _add_gev(axes: Axes, jet_pt: float) -> None:
    """Give a spectrum of the relative mass a second scale above, in GeV at a jet pT in GeV."""

    def to_gev(mass: Any) -> Any:
        return mass * jet_pt

    def from_gev(mass: Any) -> Any:
        return mass / jet_pt

    axes.tick_params(axis="x", which="both", top=False)
    above = axes.secondary_xaxis("top", functions=(to_gev, from_gev))
    above.tick_params(labelsize=10)
    label = rf"$m$ [GeV] at the median ${JET_PT}$ of {jet_pt:,.0f} GeV"
    above.set_xlabel(label, fontsize=10, loc="center")


def note_of(name: str, metrics: Sequence[Metric], results: Mapping[str, Result]) -> str:
    """Return the line that gives the W1 of an observable beside that of truth and truth."""
    metric = next((m for m in metrics if m.parts == (name,) and m.name in results), None)
    if metric is None:
        return ""
    result = results[metric.name]
    power = round(math.log10(metric.scale))
    unit = " ".join(filter(None, [rf"$\times\, 10^{{{power}}}$" if power else "", metric.unit]))
    value, mean, spread = (
        number / metric.scale for number in (result.value, result.floor, result.floor_spread)
    )
    digits = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 3
    text = rf"{mean:.{digits}f} $\pm$ {spread:.{digits}f}"
    return f"$W_1$ = {value:.{digits}f} {unit}, truth to truth {text}".replace("  ", " ")
