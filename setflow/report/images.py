"""Pictures of jets in the plane of (etarel, phirel): their mean, and a few examples."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from setflow.physics.kinematics import jet_mass
from setflow.report.displays import draw_first_events
from setflow.report.style import ETA, MASS, PHI, PTREL, STYLE, Array, as_numpy
from setflow.schema import PARTICLE_FEATURES, axis_label
from setflow.sets.batch import SetBatch
from setflow.sets.weights import effective_number

__all__ = ["example_jets", "jet_images"]

_BLOCK = 4096  # jets


def jet_images(generated: SetBatch, reference: SetBatch) -> Figure:
    """Draw the average image of a jet in (etarel, phirel), each particle weighted by its ptrel.

    Arguments:
        generated: the generated jets, with `x` of shape `(n, N, 3)` and `mask` `(n, N)`.
        reference: those of the reference.

    Weighted jets are averaged with their weights. The third picture is their ratio, grey where its
    statistical error exceeds 30%. The fewer jets there are, the larger are the pixels.
    """
    reach = _reach(reference)
    pixels = int(np.clip(0.45 * math.sqrt(min(map(_worth, (generated, reference)))), 16, 40))
    edges = np.linspace(-reach, reach, pixels + 1)
    truth, truth_error = _image(reference, edges)
    model, model_error = _image(generated, edges)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13.6, 4.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        positive = truth[truth > 0]
        low, high = np.quantile(positive, [0.05, 1.0]) if positive.size else (0.1, 1.0)
        shades = LogNorm(low, max(high, 1.01 * low))
        for axes, image, name, jets in (
            (left, truth, "Reference", len(reference)),
            (middle, model, "Generated", len(generated)),
        ):
            drawn = axes.pcolormesh(edges, edges, image.T, norm=shades, cmap="viridis")
            axes.set_facecolor(drawn.get_cmap()(0.0))
            axes.set_title(f"{name}: mean of {jets:,} jets", loc="left")
        bar = figure.colorbar(drawn, ax=[left, middle], pad=0.01, extend="min")
        bar.set_label("Mean " + axis_label(PARTICLE_FEATURES[2]) + " per pixel", loc="center")

        ratio = np.full_like(truth, np.nan)
        known = np.hypot(truth_error, model_error) < 0.3
        np.divide(model, truth, out=ratio, where=known)
        drawn = right.pcolormesh(edges, edges, ratio.T, norm=LogNorm(0.5, 2.0), cmap="RdBu_r")
        right.set_facecolor("#c8c8c8")
        right.set_title("Ratio (grey: error above 30%)", loc="left")
        bar = figure.colorbar(drawn, ax=right, pad=0.02, extend="both")
        bar.set_label("Generated / reference", loc="center")
        bar.ax.yaxis.set_major_locator(FixedLocator([0.5, 0.7, 1.0, 1.4, 2.0]))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_formatter("{x:.1f}")
        for axes in (left, middle, right):
            axes.set_aspect("equal")
            axes.set_xlabel(ETA)
        left.set_ylabel(PHI)
    return figure


def _worth(jets: SetBatch) -> float:
    """Return the number of jets, of weighted ones the effective number."""
    return float(len(jets)) if jets.weight is None else effective_number(jets.weight)


def _reach(reference: SetBatch) -> float:
    """Return how far from the axis pictures go: where all but one in 200 real particles are."""
    angles = np.abs(as_numpy(reference.x[reference.mask][:, :2])).max(-1, initial=0.0)
    return float(np.quantile(angles, 0.995)) or 1.0 if angles.size else 1.0


def _of_jets(jets: SetBatch, edges: Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ptrel of each jet in each pixel that it meets, and these pixels."""
    pixels = len(edges) - 1
    eta, phi, pt = as_numpy(jets.x[jets.mask]).astype(np.float64).T
    jet = as_numpy(jets.mask.nonzero()[:, 0])
    column, row = (np.searchsorted(edges, angle, side="right") - 1 for angle in (eta, phi))
    inside = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    pixel = (column * pixels + row)[inside]
    cells, place = np.unique(jet[inside] * pixels**2 + pixel, return_inverse=True)
    if jets.weight is not None:
        pt = pt * as_numpy(jets.weight)[jet]
    return np.bincount(place, weights=pt[inside], minlength=len(cells)), cells % pixels**2


def _image(batch: SetBatch, edges: Array) -> tuple[Array, Array]:
    """Return ptrel per pixel and jet, with shape `(etarel, phirel)`, and its relative error.

    The error counts jets, not particles: those of one prong fall into the same pixel.
    """
    pixels = len(edges) - 1
    image, square = np.zeros(pixels**2), np.zeros(pixels**2)
    for start in range(0, len(batch), _BLOCK):
        per_jet, pixel = _of_jets(batch[start : start + _BLOCK], edges)
        image += np.bincount(pixel, weights=per_jet, minlength=pixels**2)
        square += np.bincount(pixel, weights=per_jet**2, minlength=pixels**2)
    total = float(max(len(batch), 1) if batch.weight is None else as_numpy(batch.weight).sum())
    error = np.full(pixels**2, np.inf)
    np.divide(np.sqrt(square), image, out=error, where=image > 0)
    shape = (pixels, pixels)
    return image.reshape(shape) / total, error.reshape(shape)


def example_jets(generated: SetBatch, reference: SetBatch, *, jets: int = 3) -> Figure:
    """Draw the first few jets of either side that have particles: dots of area ~ ptrel.

    Arguments:
        generated: the generated jets, with `x` of shape `(n, N, 3)` and `mask` `(n, N)`.
        reference: those of the reference.
        jets: how many of each; they are the first, and not chosen.
    """
    reach = _reach(reference)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * jets + 0.9, 7.5))
        plane = ((ETA, (-reach, reach)), (PHI, (-reach, reach)))
        draw_first_events(figure, (generated, reference), jets, _dots, plane)
        figure.subplots_adjust(left=0.09, right=0.98, bottom=0.085, top=0.9, wspace=0.08)
        figure.suptitle(rf"Area of a dot $\propto$ {PTREL}", fontsize=12, y=0.985)
    return figure


def _dots(batch: SetBatch, jet: int, particles: Array) -> tuple[dict[str, Any], str]:
    """Return how the dots of a jet look, and its mass."""
    mass = float(jet_mass(batch.x[jet].double(), batch.mask[jet]))
    area = 2500.0 * np.clip(particles[:, 2], 0.0, None)
    return {"s": area, "alpha": 0.5}, f", {MASS} = {mass:.3f}"
