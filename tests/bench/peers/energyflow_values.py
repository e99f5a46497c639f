"""Values of energyflow, in a process and an environment of its own, for jets in a file.

`python energyflow_values.py jets.npz WHAT` reads `x` with shape `(n, N, 3)`, particles (etarel,
phirel, ptrel), and `mask` with shape `(n, N)`; it prints, as JSON, one value per jet, of
`efps` 36, and the CPU seconds that they took. Neither reading nor importing counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

Values = Callable[[list[np.ndarray]], list[float] | list[list[float]]]

SQUARE = [(0, 1), (1, 2), (2, 3), (3, 0)]


def efp() -> Values:
    """Return the energy flow polynomial of the square, not normalised, beta = 1."""
    import energyflow

    polynomial = energyflow.EFP(SQUARE, measure="hadr", beta=1, normed=False, coords="ptyphim")
    return lambda jets: [float(polynomial.compute(jet)) for jet in jets]


def efps() -> Values:
    """Return the 36 energy flow polynomials up to degree 4, as the metrics of jetnet take them."""
    import energyflow

    polynomials = energyflow.EFPSet(
        ("d<=", 4), measure="hadr", beta=1, normed=None, coords="ptyphim"
    )
    return lambda jets: [polynomials.compute(jet).tolist() for jet in jets]


def mass() -> Values:
    """Return the invariant mass."""
    import energyflow as ef

    return lambda jets: [float(ef.ms_from_p4s(ef.p4s_from_ptyphims(jet).sum(0))) for jet in jets]


def main() -> None:
    """Print the values and the seconds."""
    with np.load(sys.argv[1]) as file:
        x, mask = file["x"], file["mask"]
    events = zip(x, mask, strict=True)
    jets = [np.ascontiguousarray(rows[real][:, [2, 0, 1]]) for rows, real in events]
    function = {"efp": efp, "efps": efps, "mass": mass}[sys.argv[2]]()
    function(jets[:2])
    start = time.process_time()
    values = function(jets)
    seconds = time.process_time() - start
    json.dump({"values": values, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
