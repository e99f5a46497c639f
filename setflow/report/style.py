"""How pictures look: the style of mplhep, colours, and the symbols on axes."""

from __future__ import annotations

from typing import Any

import mplhep
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from setflow.schema import PARTICLE_FEATURES, axis_label

Array = NDArray[np.float64]

Mask = NDArray[np.bool_]

REFERENCE, GENERATED, IMPOSSIBLE = "#3f6fd8", "#e42536", "#f2e3e3"
HATCHED: Any = {
    "fill": True,
    "facecolor": "none",
    "edgecolor": "#8fb1f5",
    "hatch": "//////",
    "linewidth": 0,
}
"""How the statistical error of the reference is drawn."""
STYLE: Any = mplhep.style.ROOT | {
    "font.size": 11.0,
    "axes.labelsize": 13.0,
    "axes.titlesize": 12.0,
    "axes.titley": 1.0,  # ticks point inwards; to look for a free place takes long
    "axes.linewidth": 1.0,
    "axes.unicode_minus": True,
    "legend.fontsize": 10.5,
    "legend.title_fontsize": 10.5,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "xtick.major.size": 6.0,
    "xtick.minor.size": 3.0,
    "ytick.major.size": 6.0,
    "ytick.minor.size": 3.0,
    "figure.dpi": 150.0,
    "savefig.dpi": 150.0,
}
JET_PT = r"p_T^\mathrm{jet}"
MASS = rf"$m / {JET_PT}$"
ETA, PHI, PTREL = (axis_label(column) for column in PARTICLE_FEATURES[:3])
PTREL += rf" $= p_T / {JET_PT}$"


def as_numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array
