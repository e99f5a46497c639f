"""Pictures of a comparison of whole events: spectra, and a few events seen from two sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from setflow.physics.collisions import HARDEST
from setflow.physics.metrics import Measured
from setflow.report.displays import first_events
from setflow.report.figures import note_of, spectrum
from setflow.report.histograms import Quantity
from setflow.report.judging import Result
from setflow.report.style import STYLE, Array
from setflow.schema import OBJECT_TYPES, Feature, names
from setflow.sets.batch import SetBatch

__all__ = ["QUANTITIES", "draw_collisions", "event_displays"]

_LOOKS = {  # the colour and the marker of each type
    "electron": ("#1f9e4b", "^"),
    "muon": ("#e42536", "v"),
    "photon": ("#e6b400", "D"),
    "jet": ("#3f6fd8", "o"),
    "missing_momentum": ("#7a7a7a", "X"),
}
_B_COLOR = "#8a3ffc"
_CALLED = {name: name.replace("_", " ") for name in OBJECT_TYPES}
_AREA = 130.0  # of the marker of an object with the mean pt, in points squared


def _quantity(name: str, label: str, symbol: str, **how: object) -> Quantity:
    told = {"events": "events", "entries": "values", **how}
    return Quantity(name, label, symbol, **told)  # type: ignore[arg-type]


QUANTITIES: tuple[Quantity, ...] = (
    *(
        _quantity(f"n_{name}", f"Number of objects of type {_CALLED[name]}", "n", integer=True)
        for name in OBJECT_TYPES
    ),
    _quantity("b_jets", "Number of $b$ jets", "n_b", integer=True),
    _quantity("ht", "$H_T$ [GeV]", "H_T", bound=0.0, tail=3e-3),
    _quantity("charge_sum", "Sum of the charges of leptons", "q", integer=True),
    _quantity("missing", r"$p_T^\mathrm{miss}$ [GeV]", r"p_T^\mathrm{miss}", bound=0.0, tail=3e-3),
    _quantity("lepton_pt", r"$p_T$ of leptons [GeV]", "p_T", tail=3e-3, entries="leptons"),
    _quantity("jet_pt", "$p_T$ of jets [GeV]", "p_T", log_x=True, log_y=True, entries="jets"),
    _quantity("jet_eta", r"$\eta$ of jets", r"\eta", entries="jets"),
    _quantity("jet_mass", "Mass of jets [GeV]", "m", bound=0.0, tail=3e-3, entries="jets"),
    _quantity("transverse_mass", "$m_T$ of lepton and missing momentum [GeV]", "m_T", bound=0.0,
              tail=1e-2, marks=((80.4, "$m_W$"),)),
    _quantity("top_mass", f"Mass of three jets of the {HARDEST} hardest, one with $b$ [GeV]",
              "m_{bjj}", bound=0.0, tail=2e-2, marks=((171.0, "$m_t$"),)),
    _quantity("w_mass", "Mass of the two without $b$ [GeV]", "m_{jj}", bound=0.0, tail=2e-2,
              marks=((80.4, "$m_W$"),)),
    _quantity("delta_phi", r"$|\Delta\phi|$ of pairs of objects [rad]", r"|\Delta\phi|", bound=0.0,
              tail=0.0, entries="pairs"),
    _quantity("delta_r", r"$\Delta R$ of pairs of objects", r"\Delta R", bound=0.0,
              entries="pairs"),
)  # fmt: skip
"""The spectra of whole events, in this order."""


def draw_collisions(
    features: Sequence[Feature],
    batches: tuple[SetBatch, SetBatch],
    measured: tuple[Measured, Measured],
    results: Mapping[str, Result],
    *,
    origin: str = "",
) -> dict[str, Figure]:
    """Return every picture of a comparison of whole events by its name.

    Arguments:
        features: what the columns of objects are.
        batches: the generated events, and those of the reference.
        measured: the observables of both.
        results: the metrics between the two, by name.
        origin: what is compared, in a line above each spectrum.
    """
    drawn = {}
    for quantity in QUANTITIES:
        if all(_has(side, quantity.name) for side in measured):
            note = note_of(quantity.name, measured[1].metrics, results)
            drawn[quantity.name] = spectrum(quantity, *measured, note=note, origin=origin)
    return drawn | event_displays(features, *batches)


def _has(side: Measured, name: str) -> bool:
    """Return whether an observable is compared, and some event of a side has it."""
    return name in side.names and len(side.column(name)[0]) > 0


def event_displays(
    features: Sequence[Feature], generated: SetBatch, reference: SetBatch, *, events: int = 3
) -> dict[str, Figure]:
    """Draw the first few events of either side in (eta, phi), and around the beam.

    In (eta, phi) the area of a marker is proportional to pt, and missing momentum, which has no
    eta, is a dashed line at its phi. Around the beam an object is a line in its direction whose
    length is its pt.

    Arguments:
        features: what the columns of objects are, those of `setflow.schema.COLLISIONS` among them.
        generated: the generated events, with `x` of shape `(n, N, D)`.
        reference: those of the reference.
        events: how many of each; they are the first, and not chosen.

    Returns:
        The pictures by their names, `events_in_eta_and_phi` and `events_around_the_beam`.
    """
    held = names(features)
    sides = []
    for batch, name in ((reference, "Reference"), (generated, "Generated")):
        for k, x in first_events(batch, events):
            sides.append((f"{name} {k}: $N$ = {len(x)}", dict(zip(held, x.T, strict=True))))
    mean = float(np.mean(np.concatenate([event["pt"] for _, event in sides]))) if sides else 1.0
    views: dict[str, tuple[Callable[[Axes, Mapping[str, Array], float], None], str]] = {
        "events_in_eta_and_phi": (_flat, r"Area of a marker $\propto p_T$"),
        "events_around_the_beam": (_around, "Length of a line $= p_T$"),
    }
    drawn = {}
    for name, (draw, told) in views.items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(3.4 * events + 0.6, 7.8), layout="constrained")
            figure.suptitle(told, fontsize=12)
            grid = figure.subplots(2, events, squeeze=False)
            for axes, (title, event) in zip(grid.flat, sides, strict=False):
                draw(axes, event, mean)
                axes.set_title(title, loc="left", fontsize=11)
            for axes in grid.flat[len(sides) :]:
                axes.remove()
            figure.legend(handles=_legend(), loc="outside lower center", ncols=6, fontsize=10)
        drawn[name] = figure
    return drawn


def _each(event: Mapping[str, Array]) -> list[tuple[str, str, str, float, float, float]]:
    """Return type, colour, marker, pt, eta and phi of each object."""
    found = []
    for pt, eta, phi, kind, b in zip(
        *(event[name].tolist() for name in ("pt", "eta", "phi", "type", "b_hadron")), strict=True
    ):
        name = OBJECT_TYPES[min(max(int(kind), 0), len(OBJECT_TYPES) - 1)]
        color, marker = _LOOKS[name]
        found.append((name, _B_COLOR if b else color, marker, pt, eta, phi))
    return found


def _flat(axes: Axes, event: Mapping[str, Array], mean: float) -> None:
    for name, color, marker, pt, eta, phi in _each(event):
        if name == "missing_momentum":
            axes.axhline(phi, color=color, ls="--", lw=1.2)
            axes.annotate(f"{pt:.0f} GeV", (0.03, phi), xycoords=("axes fraction", "data"),
                          va="top" if phi > 2.5 else "bottom", fontsize=8,
                          color=color)  # fmt: skip
            continue
        area = _AREA * float(np.clip(pt / mean, 0.05, 20))
        axes.scatter([eta], [phi], s=area, color=color, marker=marker, alpha=0.7, edgecolors="k",
                     linewidths=0.6)  # fmt: skip
    axes.set_xlim(-3, 3)
    axes.set_ylim(-math.pi, math.pi)
    axes.set_yticks([-math.pi, 0, math.pi], [r"$-\pi$", "0", r"$\pi$"])
    axes.set_xlabel(r"$\eta$")
    axes.set_ylabel(r"$\phi$")


def _around(axes: Axes, event: Mapping[str, Array], mean: float) -> None:
    reach = 1.15 * float(event["pt"].max())
    for name, color, marker, pt, _, phi in _each(event):
        x, y = pt * math.cos(phi), pt * math.sin(phi)
        style = "--" if name == "missing_momentum" else "-"
        axes.plot([0, x], [0, y], color=color, ls=style, lw=1.8)
        axes.plot([x], [y], color=color, marker=marker, ls="", ms=5)
    rings = [ring for ring in (25, 50, 100, 200, 400, 800, 1600) if ring < reach][-2:]
    for ring in rings:
        axes.add_patch(Circle((0, 0), ring, fill=False, ec="#cccccc", lw=0.7, zorder=0))
        axes.annotate(f"{ring} GeV", (0, -ring), fontsize=7, color="#888888", ha="center",
                      va="top")  # fmt: skip
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("$p_x$")
    axes.set_ylabel("$p_y$")


def _legend() -> list[Line2D]:
    """Return a key to the types."""
    looks = {_CALLED[name]: look for name, look in _LOOKS.items()}
    looks["$b$ jet"] = (_B_COLOR, "o")
    return [
        Line2D([], [], color=color, marker=marker, ls="--" if label == "missing momentum" else "",
               label=label, ms=6)
        for label, (color, marker) in looks.items()
    ]  # fmt: skip
