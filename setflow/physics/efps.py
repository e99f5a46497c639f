"""Energy flow polynomials: all 36 up to degree 4, by contraction.

Notation. z_i is the ptrel of particle i, R_ij the distance of two particles in (eta, phi). The
polynomial of a multigraph sums over all ways to put particles on its vertices,

    EFP_G = sum_{i_1 .. i_V} z_{i_1} .. z_{i_V}  prod over the edges (a, b) of R_{i_a i_b},

with the measure "hadr", beta = 1, not normalised: what `normed=None` is in the energyflow package,
and what the metrics of the jetnet package take. Up to 4 edges there are 36 multigraphs without
isolated vertices: 21 connected ones and 15 that are products of these. They stand in
`EFP_GRAPHS` in the order of energyflow's `EFPSet(("d<=", 4))`.

As loops the tree of 5 vertices costs N^5 operations. As contractions all 36 need one product of
N x N matrices per jet, and vectors: with a_k = R^k z (R^k element by element), b = R (z a_1) and
T = R diag(z) R, all graphs without a cycle are sums over z, a_k and b, and those with one are sums
over T. So 30 particles cost tens of microseconds of one core, and memory is that of a few tables
of N x N, for a chunk of jets at a time (`setflow.physics.tables`).

"Energy flow polynomials: A complete linear basis for jet substructure" (arXiv:1712.07124).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from setflow.physics.tables import chunks, packed, squared_distances
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.shapes import floating_dtype

__all__ = ["EFP_GRAPHS", "W1EFP_GRAPHS", "d2", "d2_of_efps", "energy_flow_polynomials"]

_CONNECTED: tuple[tuple[tuple[int, int], ...], ...] = (
    (),
    ((0, 1),),
    ((0, 1), (0, 1)),
    ((0, 1), (0, 1), (0, 1)),
    ((0, 1), (0, 1), (0, 1), (0, 1)),
    ((0, 1), (0, 2)),
    ((0, 1), (0, 2), (0, 2)),
    ((0, 1), (0, 2), (0, 2), (0, 2)),
    ((0, 1), (0, 1), (0, 2), (0, 2)),
    ((0, 1), (0, 2), (1, 2)),
    ((0, 1), (0, 2), (0, 2), (1, 2)),
    ((0, 1), (0, 2), (0, 3)),
    ((0, 1), (0, 2), (0, 2), (0, 3)),
    ((0, 1), (0, 2), (1, 3)),
    ((0, 1), (0, 2), (0, 2), (1, 3)),
    ((0, 1), (0, 1), (0, 2), (1, 3)),
    ((0, 1), (0, 2), (1, 2), (0, 3)),
    ((0, 1), (0, 2), (1, 3), (2, 3)),
    ((0, 1), (0, 2), (0, 3), (0, 4)),
    ((0, 1), (0, 2), (0, 3), (1, 4)),
    ((0, 1), (0, 2), (1, 3), (2, 4)),
)  # fmt: skip

_PRODUCTS = (
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 2),
    (1, 5),
    (2, 5),
    (1, 6),
    (1, 9),
    (1, 1, 1),
    (1, 11),
    (1, 13),
    (5, 5),
    (1, 1, 2),
    (1, 1, 5),
    (1, 1, 1, 1),
)
"""The connected graphs, by their number, whose product each of the others is."""


def _side_by_side(factors: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the edges of a graph whose connected parts are these."""
    edges: list[tuple[int, int]] = []
    for factor in factors:
        first = max((max(edge) for edge in edges), default=-1) + 1
        edges += [(a + first, b + first) for a, b in _CONNECTED[factor]]
    return tuple(edges)


EFP_GRAPHS = _CONNECTED + tuple(_side_by_side(factors) for factors in _PRODUCTS)
"""The edges of the 36 multigraphs with up to 4 edges, in the order of the last dimension of
`energy_flow_polynomials`; the first has one vertex and no edge, and its polynomial is sum z."""

W1EFP_GRAPHS = (12, 14, 15, 16, 17)
"""The connected graphs of 4 vertices and 4 edges, by their number: a star and two paths of which
one edge is doubled, the triangle with a tail, and the square. W1EFP is the mean over these."""


def energy_flow_polynomials(x: Array, mask: Array | None = None) -> Tensor:
    """Return the 36 energy flow polynomials up to degree 4, with shape `(*batch, 36)`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    The graphs are `EFP_GRAPHS`, the measure is that of the module. Values are dimensionless for
    relative input, have the dtype of the input, are computed in float64 and carry no gradient. All
    are 0 for a jet without particles, all but the first (sum of ptrel) for one of one.

    >>> jet = torch.tensor([[0.0, 0.0, 0.5], [0.2, 0.0, 0.5]], dtype=torch.float64)
    >>> energy_flow_polynomials(jet)[:3]  # sum z, 2 * 0.5^2 * 0.2, 2 * 0.5^2 * 0.2^2
    tensor([1.0000, 0.1000, 0.0200], dtype=torch.float64)
    """
    x = as_tensor(x, "particles")
    real, mask = packed(x, mask)
    result = real.new_zeros(mask.shape[0], len(EFP_GRAPHS))
    for jets, eta, phi, pt, _ in chunks(real, mask, at_least=1):
        connected = _connected(squared_distances(eta, phi), pt)
        products = [math.prod(connected[k] for k in factors) for factors in _PRODUCTS]
        result[jets] = torch.stack([*connected, *products], -1)  # type: ignore[list-item]
    return result.reshape(*x.shape[:-2], len(EFP_GRAPHS)).to(floating_dtype(x))


def _connected(squares: Tensor, z: Tensor) -> list[Tensor]:
    """Return the polynomials of the connected graphs, each with shape `(c,)`.

    Arguments:
        squares: the table of R_ij^2, with shape `(c, n, n)`.
        z: momenta, 0 in empty slots, with shape `(c, n)`.
    """

    def along(table: Tensor, vector: Tensor) -> Tensor:
        return torch.bmm(table, vector[..., None])[..., 0]

    def total(*vectors: Tensor) -> Tensor:
        return math.prod(vectors, start=z).sum(-1)

    distances = squares.sqrt()
    two_steps = torch.bmm(distances * z[:, None, :], distances)  # T
    a1, a2 = along(distances, z), along(squares, z)
    b = along(distances, z * a1)
    middle = along(squares, z * a1)
    closed = along(two_steps.square(), z)  # of the square
    doubled = along(two_steps * squares, z)
    triangle = along(two_steps.mul_(distances), z)
    a3 = along(distances.mul_(squares), z)
    a4 = along(squares.square(), z)
    return [
        total(),
        total(a1),
        total(a2),
        total(a3),
        total(a4),
        total(a1, a1),
        total(a1, a2),
        total(a1, a3),
        total(a2, a2),
        total(triangle),
        total(doubled),
        total(a1, a1, a1),
        total(a1, a1, a2),
        total(a1, b),
        total(a2, b),
        total(a1, middle),
        total(a1, triangle),
        total(closed),
        total(a1, a1, a1, a1),
        total(a1, a1, b),
        total(b, b),
    ]


def d2(x: Array, mask: Array | None = None) -> Tensor:
    """Return the ratio D2 = e3 / e2^3 of energy correlations, with shape `batch`, at least 0.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    With momenta z normalised to the particles that are there and beta = 1,

        e2 = sum_{i<j} z_i z_j R_ij,      e3 = sum_{i<j<k} z_i z_j z_k R_ij R_jk R_ki,

    which are polynomials of `EFP_GRAPHS`, the line and the triangle. D2 is small for two prongs. It
    is 0 for a jet of fewer than 3 particles, and where all stand at one place.

    "Power counting to better jet observables" (arXiv:1409.6298).

    >>> corners = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    >>> d2(corners)  # (sqrt(2) / 27) / ((2 + sqrt(2)) / 9)^3
    tensor(0.9594)
    """
    return d2_of_efps(energy_flow_polynomials(as_tensor(x, "particles"), mask))


def d2_of_efps(efps: Tensor) -> Tensor:
    """Return D2 of jets whose `energy_flow_polynomials` are known, with shape `batch`.

    Arguments:
        efps: with shape `(*batch, 36)`.
    """
    total, line, triangle = efps[..., 0], efps[..., 1], efps[..., 9]
    none = line == 0
    ratio = total / torch.where(none, 1.0, line)
    return torch.where(none, 0.0, (4 / 3) * triangle * ratio**3)
