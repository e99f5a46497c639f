"""The jets of truth.npz written in the layouts of the field, as their own code writes them.

`truth.npz` holds 120 top jets: P30 (etarel, phirel, ptrel, mask), J (pt, eta, mass, N) and T30, the
types. What is hard to imitate stands beside it as files: ROOT, parquet, and a table of pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HERE = Path(__file__).parent
_TRUTH = np.load(HERE / "truth.npz")
P, J, T = (_TRUTH[key] for key in ("P30", "J", "T30"))
X, REAL = P[..., :3], P[..., 3] > 0
RNG = np.random.default_rng(7)
GENERIC = RNG.normal(size=(120, 20, 5)).astype("f4")
FLAGS = RNG.random((120, 20)) < 0.7
KINDS = np.where(FLAGS, RNG.integers(1, 4, (120, 20)), 0)
SHOWERS = RNG.exponential(50, (120, 368)) * (RNG.random((120, 368)) < 0.2)
INCIDENT = 2.0 ** RNG.integers(8, 22, (120, 1))
PDG = np.array([0, 22, 211, -211, 130, 11, -11, 13, -13])


def hdf5(path: Path, contents: dict[str, Any], **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in contents.items():
            file.create_dataset(key, data=values, **options)
    return path


def absolute() -> tuple[Any, Any, Any]:
    """Return pt [GeV], eta and phi in [0, 2 pi) of particles, jets turned around the beam."""
    turn = np.linspace(0, 6.2, len(P))[:, None]
    pt, eta = P[..., 2].astype("f8") * J[:, :1], P[..., 0].astype("f8") + J[:, 1:2]
    return np.where(REAL, [pt, eta, (P[..., 1] + turn) % (2 * np.pi)], 0)


def _jetnet(path: Path) -> Path:
    return hdf5(path, {"particle_features": P, "jet_features": J})


def _jetnet_gzip(path: Path) -> Path:
    wide = np.pad(P, ((0, 0), (0, 120), (0, 0)))
    return hdf5(path, {"particle_features": wide, "jet_features": J}, compression="gzip")


def _no_jets(path: Path) -> Path:
    return hdf5(path, {"particle_features": P})


def _int_mask(path: Path) -> Path:
    return hdf5(path, {"particle_features": X, "mask": REAL.astype("i1"), "jet_features": J})


def _fifth(path: Path) -> Path:
    wide = np.concatenate([P, T[..., None]], -1).astype("f4")
    return hdf5(path, {"particle_features": wide, "jet_features": J})


def _vlen(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("particle_features", (len(P),), h5py.vlen_dtype("f4"))
        for k, real in enumerate(REAL):
            rows[k] = X[k][real].ravel()
        file["jet_features"] = J
    return path


def _offsets(path: Path) -> Path:
    ends = np.concatenate([[0], REAL.sum(1).cumsum()])
    return hdf5(path, {"x": X[REAL], "offsets": ends, "jet_features": J})


def _array(x: Any) -> Callable[[Path], Path]:
    def written(path: Path) -> Path:
        np.save(path.with_suffix(".npy"), x)
        return path.with_suffix(".npy")

    return written


def _omnilearn(path: Path) -> Path:
    pt = np.where(REAL, P[..., 2].astype("f8") * J[:, :1], 1)
    energy = pt * np.cosh(P[..., 0].astype("f8") + J[:, 1:2])
    data = [P[..., 0], P[..., 1], np.log(pt), np.where(REAL, np.log(energy), 0), T]
    wide = np.pad(np.stack(data, -1), ((0, 0), (0, 20), (0, 0)))
    return hdf5(path, {"data": wide.astype("f4"), "pid": np.full(len(P), 3), "global": J})


def _ftag(path: Path) -> Path:
    jets = np.zeros(len(P), [("pt", "f4"), ("eta", "f4"), ("mass", "f4"), ("flavour_label", "i4")])
    jets["pt"], jets["eta"], jets["mass"] = J[:, 0] * 1000, J[:, 1], J[:, 2] * 1000
    jets["flavour_label"] = np.arange(len(P)) % 3
    names = ("d0", "z0SinTheta", "dphi", "deta", "qOverP")
    fields = [*((name, "f4") for name in names), ("numberOfPixelHits", "i4"), ("valid", "?")]
    tracks = np.zeros((len(P), 40), fields)
    for name in names:
        tracks[name] = np.nan
    tracks["valid"][:, :30] = REAL
    for name, values in {"deta": P[..., 0], "dphi": P[..., 1], "d0": X[..., 2]}.items():
        tracks[name][:, :30] = np.where(REAL, values, np.nan)
    for name in ("z0SinTheta", "qOverP"):
        tracks[name][:, :30] = np.where(REAL, 0.001, np.nan)
    return hdf5(path, {"jets": jets, "tracks": tracks}, compression="lzf")


def _energyflow(path: Path) -> Path:
    particles = np.stack([*absolute(), np.where(REAL, PDG[T], 0)], -1)
    path = path.with_suffix(".npz")
    np.savez_compressed(path, X=particles, y=np.arange(len(P)) % 2.0)
    return path


def _lhco(path: Path) -> Path:
    flat = np.zeros((len(P), 2101))
    for k, values in enumerate(absolute()):
        flat[:, k : 90 + k : 3] = values
    flat[:, 2100] = np.arange(len(P)) % 2
    return hdf5(path, {"df/block0_values": flat})


def _calo(path: Path) -> Path:
    return hdf5(path, {"showers": SHOWERS, "incident_energies": INCIDENT}, compression="gzip")


def _generic(path: Path) -> Path:
    return hdf5(path, {"x": np.where(FLAGS[..., None], GENERIC, 0), "mask": FLAGS})


def _no_mask(path: Path) -> Path:
    return hdf5(path, {"x": np.where(FLAGS[..., None], GENERIC, 0)})


def _types(path: Path) -> Path:
    return hdf5(path, {"x": GENERIC, "mask": FLAGS, "type": KINDS})


def _attributes(path: Path, **attributes: Any) -> Path:
    with h5py.File(path, "a") as file:
        for key, value in attributes.items():
            dataset, _, name = key.rpartition("__")
            file[dataset].attrs[name] = value
    return path


def _changed(change: Callable[[Any, Any], None]) -> Callable[[Path], Path]:
    """Return what writes jets of which particles and jets have been changed in place."""

    def written(path: Path) -> Path:
        p, j = P.copy(), J.copy()
        change(p, j)
        return hdf5(path, {"particle_features": p, "jet_features": j})

    return written


def _order(path: Path) -> Path:
    hdf5(path, {"particle_features": P[..., [2, 0, 1, 3]], "jet_features": J})
    names = ["ptrel", "etarel", "phirel", "mask"]
    return _attributes(path, particle_features__features=names)


def _tev(path: Path) -> Path:
    hdf5(path, {"particle_features": P, "jet_features": J / [1000, 1, 1000, 1]})
    return _attributes(path, jet_features__units=["TeV", "", "TeV", ""])


def _in_gev(p: Any, j: Any) -> None:
    p[..., 2] *= j[:, :1]


def _mask_ones(p: Any, j: Any) -> None:
    p[..., 3] = 1


def _mask_half(p: Any, j: Any) -> None:
    p[..., 3] -= 0.5


def _normalised(p: Any, j: Any) -> None:
    p[..., :3] /= np.abs(p[..., :3]).max((0, 1))
    p[..., 3] -= 0.5


def _fraction(p: Any, j: Any) -> None:
    j[:, 3] /= 30


def _kept(name: str) -> Callable[[Path], Path]:
    return lambda path: HERE / name


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "jetnet": _jetnet,
    "jetnet_gzip": _jetnet_gzip,
    "no_jets": _no_jets,
    "int_mask": _int_mask,
    "fifth": _fifth,
    "vlen": _vlen,
    "offsets": _offsets,
    "mpgan": _array(X),
    "epic": _array(X[..., [2, 0, 1]].astype("f8")),
    "omnilearn": _omnilearn,
    "ftag": _ftag,
    "jetclass.root": _kept("jetclass.root"),
    "jetclass.parquet": _kept("jetclass.parquet"),
    "toptag": _kept("toptag_table.h5"),
    "energyflow": _energyflow,
    "lhco": _lhco,
    "calo": _calo,
    "generic": _generic,
    "no_mask": _no_mask,
    "types": _types,
}
"""What writes each layout to a path, or knows where it is; it returns the path."""

WRONG: dict[str, Callable[[Path], Path]] = {
    "order_pt_eta_phi": _order,
    "jet_TeV": _tev,
    "pt_abs_GeV": _changed(_in_gev),
    "mask_ones": _changed(_mask_ones),
    "mask_half": _changed(_mask_half),
    "normalised": _changed(_normalised),
    "numparticles_frac": _changed(_fraction),
}
"""The same for files that must not be read as if nothing were wrong with them."""
