"""Pictures of what depends on what: distances in pairs of particles, pairs of observables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from setflow.physics.metrics import Measured, Observables
from setflow.physics.tables import squared_distances
from setflow.report.style import GENERATED, MASS, REFERENCE, STYLE, Array, as_numpy

__all__ = ["DELTA_R", "PAIRED", "correlations", "joint_spectra", "with_pairs"]

DELTA_R = "delta_r"
PAIRED = 10
"""How many of the hardest particles of a jet make pairs."""

_LABELS = {
    "mass": MASS,
    "pt": r"$p_T$ sum",
    "multiplicity": "$N$",
    "tau21": r"$\tau_{21}$",
    "tau32": r"$\tau_{32}$",
    "d2": "$D_2$",
}
_JOINT = (("mass", "tau21"), ("mass", "tau32"), ("tau21", "d2"))
_SHARES = (0.9, 0.6, 0.3)  # of the jets inside of a contour


@dataclass(frozen=True)
class _WithPairs:
    """Observables of jets, and besides the distances of pairs of particles."""

    sample: Observables
    pairs: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.sample)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sample, name)

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one observable and the jet of each."""
        return self.pairs if name == DELTA_R else self.sample.column(name)


def with_pairs(sample: Observables) -> Measured:
    """Return observables that have the column `DELTA_R` too: the distances of hard particles.

    Arguments:
        sample: the observables of jets.
    """
    x, mask = sample.x[:, :PAIRED], sample.mask[:, :PAIRED]
    first, second = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    there = mask[:, first] & mask[:, second]
    squares = squared_distances(x[..., 0], x[..., 1])[:, first, second]
    jet = torch.arange(len(x), device=x.device)[:, None].expand_as(there)
    pairs: Any = _WithPairs(sample, (squares[there].sqrt(), jet[there]))
    return pairs  # type: ignore[no-any-return]


def _weights(sample: Measured) -> Array:
    return np.ones(len(sample)) if sample.weight is None else as_numpy(sample.weight)


def joint_spectra(generated: Observables, reference: Observables) -> Figure:
    """Draw two observables of a jet against each other, three pairs of them.

    The reference is shaded, the generated jets are lines; both have 30%, 60% and 90% of their jets
    inside.

    Arguments:
        generated: the observables of the generated jets.
        reference: those of the reference.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13.6, 4.9))
        panels = figure.subplots(1, len(_JOINT))
        figure.subplots_adjust(left=0.06, right=0.985, bottom=0.13, top=0.84, wspace=0.2)
        for axes, names in zip(panels, _JOINT, strict=True):
            edges = [_edges(as_numpy(reference.column(name)[0])) for name in names]
            centres = [(e[1:] + e[:-1]) / 2 for e in edges]
            for sample in (reference, generated):
                x, y = (as_numpy(sample.column(name)[0]) for name in names)
                table = np.histogram2d(x, y, bins=edges, weights=_weights(sample))[0]
                table = _smooth(table)
                levels = _levels(table)
                if len(levels) < 2:
                    continue
                if sample is reference:
                    shades = LinearSegmentedColormap.from_list("", ["#d6e2fb", REFERENCE])
                    axes.contourf(*centres, table.T, [*levels, 1.01 * table.max()], cmap=shades)
                else:
                    axes.contour(*centres, table.T, levels, colors=GENERATED, linewidths=1.4)
            axes.set_xlabel(_LABELS[names[0]])
            axes.set_ylabel(_LABELS[names[1]])
            axes.set_xlim(edges[0][0], edges[0][-1])
            axes.set_ylim(edges[1][0], edges[1][-1])
        figure.legend(
            handles=[
                Patch(color="#8fb1f5", label="Reference"),
                Line2D([], [], color=GENERATED, label="Generated"),
            ],
            title="30%, 60% and 90% of the jets are inside",
            loc="upper left",
            bbox_to_anchor=(0.05, 1.0),
            ncols=2,
            alignment="left",
        )
    return figure


def _edges(values: Array) -> Array:
    low, high = np.quantile(values, [2e-3, 0.985])
    margin = 0.05 * (high - low) or 0.5
    bins = int(np.clip(len(values) ** 0.4, 8, 40))
    return np.linspace(low - margin, high + margin, bins + 1)


def _smooth(table: Array) -> Array:
    """Return a table whose cells have taken a part of their neighbours, twice."""
    kernel = np.array([0.25, 0.5, 0.25])
    for axis in (0, 1, 0, 1):
        table = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), axis, table)
    return table


def _levels(table: Array) -> list[float]:
    """Return the heights above which lie the shares of all entries, rising and distinct."""
    heights = np.sort(table.clip(0.0).ravel())[::-1]
    inside = heights.cumsum() / (heights.sum() or 1.0)
    last = len(heights) - 1
    places = np.searchsorted(inside, _SHARES).clip(max=last)
    levels = heights[places].tolist()
    return sorted({level for level in levels if level > 0})


def correlations(generated: Observables, reference: Observables) -> Figure:
    """Draw the rank correlations of all observables of a jet, and how far they are from the truth.

    Arguments:
        generated: the observables of the generated jets.
        reference: those of the reference.

    The third table is (generated - reference) over the error of that difference, that of two
    samples of normally distributed ranks.
    """
    names = list(_LABELS)
    truth, model = (_ranked(sample, names) for sample in (reference, generated))
    errors = [(1 - table**2) / np.sqrt(max(len(sample) - 1, 1))
              for table, sample in ((truth, reference), (model, generated))]  # fmt: skip
    error = np.hypot(*errors)
    pull = np.divide(model - truth, error, out=np.zeros_like(error), where=error > 1e-9)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13.6, 4.8), layout="constrained")
        panels = figure.subplots(1, 3)
        shown = (
            (truth, "Reference: rank correlation", 1.0, ".2f"),
            (model, "Generated: rank correlation", 1.0, ".2f"),
            (pull, "(Generated - reference) / error", 5.0, "+.1f"),
        )
        for axes, (table, title, reach, form) in zip(panels, shown, strict=True):
            own = np.eye(len(names), dtype=bool)
            axes.imshow(np.ma.masked_array(table, own), cmap="RdBu_r", vmin=-reach, vmax=reach)
            axes.set_facecolor("#dddddd")
            axes.set_title(title, loc="left")
            labels = [_LABELS[name] for name in names]
            axes.set_xticks(range(len(names)), labels, rotation=45, ha="right")
            axes.set_yticks(range(len(names)), labels)
            axes.tick_params(which="both", length=0)
            for i, j in itertools.product(range(len(names)), repeat=2):
                if i != j:
                    color = "white" if abs(table[i, j]) > 0.65 * reach else "black"
                    place = {"ha": "center", "va": "center", "fontsize": 10, "color": color}
                    axes.text(j, i, format(table[i, j], form), **place)
    return figure


def _ranked(sample: Observables, names: list[str]) -> Array:
    """Return the correlations of the ranks of observables, 0 with what is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(as_numpy(sample.column(name)[0])) for name in names])
    weight = np.abs(_weights(sample))
    centred = ranks - np.average(ranks, axis=1, weights=weight)[:, None]
    covariance = (weight * centred) @ centred.T
    scale = np.sqrt(np.diag(covariance))
    table: Array = covariance / np.maximum(np.outer(scale, scale), 1e-300)
    np.fill_diagonal(table, 1.0)
    return table
