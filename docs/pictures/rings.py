"""Draws the picture of the page on own sets; run by hand, for it trains for some minutes.

python docs/pictures/rings.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from style import BLUE, ORANGE, STYLE

import setflow
from setflow.schema import Feature, Schema, axis_label

HERE = Path(__file__).resolve().parent
SHOWN = 5
RICH = Schema(
    [
        Feature("x", "mm"),
        Feature("y", "mm"),
        Feature("time", "ns"),
        Feature("charge", "pe", "positive"),
        Feature("cosine", kind="bounded(0, 1)", label=r"$\cos\theta$"),
    ]
)


def make_rings(rings: int, seed: int) -> setflow.SetBatch:
    """Return rings of 5 to 40 hits, more on a larger one, as the page makes them."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(15, 40, rings)
    hits = np.clip(rng.poisson(radius**2 / 45), 5, 40)
    centre = rng.normal(0, 8, (rings, 2))
    ring = np.repeat(np.arange(rings), hits)
    angle = rng.uniform(-np.pi, np.pi, len(ring))
    around = radius[ring, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    xy = centre[ring] + around + rng.normal(0, 0.8, (len(ring), 2))
    time = 10 + radius[ring] / 20 + rng.normal(0, 0.1, len(ring))
    charge = rng.gamma(4, 0.25, len(ring))
    cosine = rng.beta(30, 900 / radius[ring])
    values = np.stack([*xy.T, time, charge, cosine], -1)
    return setflow.SetBatch.from_offsets(values, np.append(0, hits.cumsum()))


def fitted_radius(batch: setflow.SetBatch) -> np.ndarray:
    """Return the radius of the circle that fits the hits of each ring best (Kasa's fit)."""
    radii = []
    for hits in batch.to_ragged():
        xy = hits[:, :2].double().numpy()
        design = np.column_stack([2 * xy, np.ones(len(xy))])
        a, b, c = np.linalg.lstsq(design, (xy**2).sum(-1), rcond=None)[0]
        radii.append(np.sqrt(c + a**2 + b**2))
    return np.array(radii)


def main() -> None:
    """Train, sample, and draw rings and three spectra of both."""
    plt.rcParams |= STYLE
    truth = make_rings(2000, seed=2)
    flow = setflow.fit(make_rings(10_000, seed=1), schema=RICH)
    made = flow.sample(2000, seed=1, solver=setflow.Midpoint(25))
    figure = plt.figure(figsize=(8, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.4, 2.2))
    panels = above.subplots(2, SHOWN, sharex=True, sharey=True, subplot_kw={"aspect": "equal"})
    sides = ((truth, BLUE, "simulated"), (made, ORANGE, "generated"))
    for row, (batch, colour, title) in zip(panels, sides, strict=True):
        for axes, hits in zip(row, batch.to_ragged(), strict=False):
            x, y, _, charge, _ = hits.T
            axes.scatter(x, y, s=14 * charge, color=colour, alpha=0.7, linewidths=0)
            axes.set(xlim=(-62, 62), ylim=(-62, 62), xticks=(-40, 0, 40), yticks=(-40, 0, 40))
        row[0].set_ylabel(f"{title}\ny [mm]")
    for axes in panels[1]:
        axes.set_xlabel("x [mm]")
    axes = below.subplots(1, 3)
    spectra = (
        ("radius of the fitted circle [mm]", fitted_radius, np.linspace(5, 50, 31)),
        ("number of hits", lambda batch: batch.lengths.numpy(), np.arange(4.5, 41.5, 2)),
        (
            axis_label(RICH.object("cosine")),
            lambda batch: batch.x[batch.mask][:, 4].numpy(),
            np.linspace(0.2, 0.9, 31),
        ),
    )
    for panel, (label, values, edges) in zip(axes, spectra, strict=True):
        panel.hist(values(truth), edges, density=True, color=BLUE, alpha=0.35, label="simulated")
        panel.hist(
            values(made), edges, density=True, histtype="step", color=ORANGE, lw=1.6, label="model"
        )
        panel.set(xlabel=label, yticks=())
    axes[0].set_ylabel("density")
    axes[0].legend(fontsize=8, loc="upper left")
    figure.savefig(HERE / "rings.png", dpi=110)


if __name__ == "__main__":
    main()
