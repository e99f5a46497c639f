"""The jet as the sum of its massless particles.

A jet is a set of particles with `etarel = eta - eta_jet`, `phirel = phi - phi_jet` in radians, and
`ptrel = pT / pT_jet`, the last dimension of `x` in this order. A particle is taken as massless,

    p = pT (cosh eta, cos phi, sin phi, sinh eta),      order (E, px, py, pz),

and the jet's momentum is the sum over the real ones. With relative input the axes are those of the
jet that was recorded, and every momentum, energy and mass comes in units of its full pT; with
absolute input (eta, phi, pT in GeV) they come in GeV. An event without real particles has momentum
and mass zero. Sums run in float64, since the mass is a small difference of large numbers; results
have the dtype of the input. A NaN in a real particle stays a NaN in its own jet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from setflow.sets.angles import wrap
from setflow.sets.arrays import Array, as_tensor
from setflow.sets.masks import as_mask, count_real, zero_padding
from setflow.sets.shapes import as_floating

__all__ = [
    "as_particles",
    "checked_particles",
    "delta_phi",
    "hardest_first",
    "in_order",
    "jet_eta",
    "jet_features",
    "jet_four_momentum",
    "jet_mass",
    "jet_pt",
]


def checked_particles(x: Array, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return particles with zeros in their padded slots, and a boolean mask, as `as_particles`."""
    x, mask = as_particles(x, mask)
    return zero_padding(x, mask), mask


def as_particles(x: Array, mask: Array | None) -> tuple[Tensor, Tensor]:
    """Return particles, padded slots as they are, and a boolean mask, both checked.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`; integers become numbers
            of torch's default dtype.
        mask: which are real, with shape `(*batch, N)`; None means all.

    Raises:
        TypeError: if `x` does not hold real numbers.
        ValueError: if a shape does not fit.
    """
    x = as_tensor(x, "particles")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"particles must hold real numbers, got {x.dtype}; convert them first")
    x = as_floating(x)
    if x.ndim < 2 or x.shape[-1] != 3:
        raise ValueError(
            f"particles have shape {tuple(x.shape)}, expected (*batch, N, 3) with the features "
            "etarel, phirel, ptrel in this order; select them with x[..., :3] if there are more"
        )
    if mask is None:
        return x, torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return x, as_mask(mask, x.shape[:-1])


def delta_phi(phi_a: Array | float, phi_b: Array | float) -> Tensor:
    """Return the angle `phi_a - phi_b` in radians, wrapped to [-pi, pi).

    Differences that need no wrapping come back to the last bit.

    >>> delta_phi(torch.tensor([3.0]), torch.tensor([-3.0]))
    tensor([-0.2832])
    """
    return wrap(as_tensor(phi_a, "phi_a") - as_tensor(phi_b, "phi_b"))


def jet_four_momentum(x: Array, mask: Array | None = None) -> Tensor:
    """Return the jet's four-momentum (E, px, py, pz), with shape `(*batch, 4)`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    The unit is that of pT: the full jet's pT for relative input. The x axis points along
    phirel = 0, and pz is that of the frame in which the recorded jet has eta = 0.

    >>> jet_four_momentum(torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.25]]))
    tensor([0.7500, 0.7500, 0.0000, 0.0000])
    """
    real, _ = checked_particles(x, mask)
    return _four_momentum(real.double()).to(real.dtype)


def _four_momentum(real: Tensor) -> Tensor:
    eta, phi, pt = real.unbind(-1)
    momenta = (pt * eta.cosh(), pt * phi.cos(), pt * phi.sin(), pt * eta.sinh())
    return torch.stack([component.sum(-1) for component in momenta], -1)


def jet_mass(x: Array, mask: Array | None = None) -> Tensor:
    """Return the invariant mass of the jet, with shape `batch`, in the unit of pT.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    With relative input this is m / pT_jet. A jet of no or one particle has mass 0, and so has one
    whose m^2 is negative, which needs a negative pT. Taken from E^2 - p^2, the square of a mass of
    1e-6 drowns in the rounding of 1; here the leading terms are cancelled by algebra instead. With
    eta and phi counted from the jet's own axis and

        P = sum pT,  C = sum 2 pT sin^2(phi/2),  S = sum pT sin(phi),  A, B = sum pT (e^(+-eta) - 1)

    m^2 = P (A + B + 2 C) + A B - C^2 - S^2 and A + B = sum 4 pT sinh^2(eta/2), whatever the axis.

    >>> pair = torch.tensor([[0.0, 0.1, 0.5], [0.0, -0.1, 0.5]], dtype=torch.float64)
    >>> jet_mass(pair)  # sin(0.1)
    tensor(0.0998, dtype=torch.float64)
    """
    real, _ = checked_particles(x, mask)
    return _mass(real.double()).to(real.dtype)


def _mass(real: Tensor) -> Tensor:
    eta, phi, pt = real.unbind(-1)
    with torch.no_grad():  # the result does not depend on the axis, only its rounding does
        weight = pt.abs()
        total = weight.sum(-1, keepdim=True)
        eta_axis = (weight * eta).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
        phi_axis = torch.atan2(
            (weight * phi.sin()).sum(-1, keepdim=True), (weight * phi.cos()).sum(-1, keepdim=True)
        )
    eta, phi = eta - eta_axis, delta_phi(phi, phi_axis)
    p = pt.sum(-1)
    c = (2 * pt * (phi / 2).sin().square()).sum(-1)
    s = (pt * phi.sin()).sum(-1)
    a, b = (pt * eta.expm1()).sum(-1), (pt * (-eta).expm1()).sum(-1)
    a_plus_b = (4 * pt * (eta / 2).sinh().square()).sum(-1)
    return _root(p * (a_plus_b + 2 * c) + a * b - c.square() - s.square())


def _root(square: Tensor) -> Tensor:
    """Return the square root, 0 where `square` is not positive, with a gradient that is finite."""
    none = square <= 0  # not `~(square > 0)`: a NaN shall stay a NaN
    return torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())


def jet_pt(x: Array, mask: Array | None = None) -> Tensor:
    """Return the transverse momentum of the jet (a vector sum), with shape `batch`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    With relative input the unit is the full jet's pT: below 1 where particles were cut away.

    >>> jet_pt(torch.tensor([[0.3, 0.1, 0.5], [0.0, 0.1, 0.25]]))
    tensor(0.7500)
    """
    real, _ = checked_particles(x, mask)
    return _transverse(_four_momentum(real.double())).to(real.dtype)


def _transverse(momentum: Tensor) -> Tensor:
    return _root(momentum[..., 1].square() + momentum[..., 2].square())


def jet_eta(x: Array, mask: Array | None = None) -> Tensor:
    """Return the pseudorapidity of the jet's momentum, with shape `batch`, dimensionless.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    With relative input it is counted from the recorded jet axis, so that it is small. It is 0 for a
    jet without transverse momentum.

    >>> jet_eta(torch.tensor([[0.3, 0.1, 0.5]]))
    tensor(0.3000)
    """
    real, _ = checked_particles(x, mask)
    return _pseudorapidity(_four_momentum(real.double())).to(real.dtype)


def _pseudorapidity(momentum: Tensor) -> Tensor:
    pt = _transverse(momentum)
    none = pt == 0
    return torch.where(none, 0.0, momentum[..., 3] / torch.where(none, 1.0, pt)).asinh()


def jet_features(x: Array, mask: Array | None = None) -> Tensor:
    """Return (pt, eta, mass, number of real particles) of each jet, with shape `(*batch, 4)`.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.

    These are the jet features of a generated file: pt and mass in units of the full jet's pT, eta
    relative to the jet axis.

    >>> jet_features(torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.25]]))
    tensor([0.7500, 0.0000, 0.0000, 2.0000])
    """
    real, mask = checked_particles(x, mask)
    momentum = _four_momentum(real.double())
    features = (
        _transverse(momentum),
        _pseudorapidity(momentum),
        _mass(real.double()),
        count_real(mask).double(),
    )
    return torch.stack(features, -1).to(real.dtype)


def in_order(pt: Tensor, mask: Tensor) -> bool:
    """Return whether the real particles of each jet stand first, by falling ptrel.

    Arguments:
        pt: ptrel, with shape `(*batch, N)`, anything in padded slots.
        mask: which are real, with the same shape.
    """
    before, after = mask[..., :-1], mask[..., 1:]
    falls = before & (pt[..., :-1] >= pt[..., 1:])
    return bool((falls | ~after).all())


def hardest_first(
    x: Array, mask: Array | None = None, n: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sort the real particles of each jet by falling ptrel, and keep the first `n` slots.

    Arguments:
        x: particles (etarel, phirel, ptrel), with shape `(*batch, N, 3)`.
        mask: which are real, with shape `(*batch, N)`; None means all.
        n: the number of slots to return; None keeps N. Softer particles are cut away if it is
            smaller, empty slots appended if it is larger.

    Returns:
        The particles, with shape `(*batch, n, 3)`, real ones first, equal ptrel in their old order,
        zeros in padded slots; and their mask, with shape `(*batch, n)`.

    Raises:
        ValueError: if `n` is negative or a shape does not fit.

    >>> x = torch.tensor([[0.0, 0.0, 0.1], [9.0, 9.0, 9.0], [0.2, 0.1, 0.8]])
    >>> hardest_first(x, torch.tensor([True, False, True]), n=2)
    (tensor([[0.2000, 0.1000, 0.8000],
            [0.0000, 0.0000, 0.1000]]), tensor([True, True]))
    """
    if n is not None and n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    return by_falling_pt(*checked_particles(x, mask), n)


def by_falling_pt(x: Tensor, mask: Tensor, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Return what `hardest_first` does of particles that are checked and may have more columns.

    Arguments:
        x: particles, ptrel in the third column, with shape `(*batch, N, D)`, zeros in padded slots.
        mask: which are real, with shape `(*batch, N)`.
        n: the number of slots to return; None keeps N.
    """
    slots = x.shape[-2] if n is None else n
    if slots == x.shape[-2] and in_order(x[..., 2], mask):
        return x, mask
    order = x[..., 2].argsort(dim=-1, descending=True, stable=True)
    padded_last = (~mask).gather(-1, order).to(torch.uint8).argsort(dim=-1, stable=True)
    order = order.gather(-1, padded_last)[..., :slots]
    x = x.gather(-2, order[..., None].expand(*order.shape, x.shape[-1]))
    mask = mask.gather(-1, order)
    missing = slots - order.shape[-1]
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        mask = torch.nn.functional.pad(mask, (0, missing))
    return x, mask
