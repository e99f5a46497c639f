"""Draws the pictures of a model of 30 particles; run by hand, for it takes a sample of 5,000 jets.

setflow sample models/top30-two-stages --events 5000 --steps 8 --seed 1 --out jets.h5
python docs/pictures/top30.py jets.h5
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from style import BLUE, GREY, ORANGE, STYLE

from setflow.data import read_jets
from setflow.physics import jet_mass, shuffle_particles, tau21
from setflow.physics.metrics import observables
from setflow.report.figures import QUANTITIES, draw_spectrum
from setflow.report.style import STYLE as REPORT_STYLE

HERE = Path(__file__).resolve().parent
SHOWN = 5


def jets(truth, model):
    """Draw the first jets of both, particle by particle."""
    figure, panels = plt.subplots(
        2, SHOWN, figsize=(8, 3.5), sharex=True, sharey=True, subplot_kw={"aspect": "equal"}
    )
    for row, batch, colour, title in (
        (panels[0], truth, BLUE, "simulated"), (panels[1], model, ORANGE, "generated"),
    ):  # fmt: skip
        for axes, x, mask in zip(row, batch.x, batch.mask, strict=False):
            eta, phi, pt = x[mask].T
            axes.scatter(eta, phi, s=1500 * pt, color=colour, alpha=0.45, linewidths=0)
            axes.set(
                xlim=(-0.42, 0.42), ylim=(-0.42, 0.42), xticks=(-0.3, 0, 0.3), yticks=(-0.3, 0, 0.3)
            )
        row[0].set_ylabel(f"{title}\n" + r"$\phi^\mathrm{rel}$ [rad]")
    for axes in panels[1]:
        axes.set_xlabel(r"$\eta^\mathrm{rel}$")
    figure.savefig(HERE / "top30-jets.png", dpi=100)


def spectra(truth, model):
    """Draw mass, tau21 and ptrel of both, as the report does."""
    reference, generated = (observables(batch.x, batch.mask) for batch in (truth, model))
    shown = {quantity.name: quantity for quantity in QUANTITIES}
    with plt.rc_context(REPORT_STYLE):
        figure = plt.figure(figsize=(16.5, 6.2), layout="none")
        panels = figure.subfigures(1, 3)
        for panel, name in zip(panels, ("mass", "tau21", "ptrel"), strict=True):
            draw_spectrum(panel, shown[name], generated, reference)
        figure.savefig(HERE / "top30-spectra.png", dpi=80)


def shuffled(truth, model):
    """Draw mass and tau21 of both, and of jets whose particles were shuffled between them."""
    exchanged = shuffle_particles(truth.x, truth.mask, torch.Generator().manual_seed(1))
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2))
    for axes, observable, label, most in (
        (panels[0], jet_mass, r"mass of the 30 hardest particles [jet $p_T$]", 0.3),
        (panels[1], tau21, r"$\tau_{21}$", 1.0),
    ):
        edges = torch.linspace(0, most, 41).tolist()
        shown = {"bins": edges, "density": True}
        axes.hist(observable(truth.x, truth.mask), **shown, color=BLUE, alpha=0.35, label="truth")
        line = {"histtype": "step", "linewidth": 1.6}
        axes.hist(observable(model.x, model.mask), **shown, **line, color=ORANGE, label="generated")
        axes.hist(observable(*exchanged), **shown, **line, color=GREY, label="particles shuffled")
        axes.set(xlabel=label, ylabel="probability density", xlim=(0, most))
    panels[1].legend(fontsize=9, loc="upper left")
    figure.savefig(HERE / "top30-shuffled.png", dpi=100)


if __name__ == "__main__":
    plt.rcParams |= STYLE
    heldout = HERE.parents[1] / "datasets/pythia-top/heldout.h5"
    pair = read_jets(heldout, max_objects=30).particles, read_jets(sys.argv[1], stop=5000).particles
    jets(*pair)
    spectra(*pair)
    shuffled(*pair)
