"""The table of names: it is whole, unambiguous, and what JetNet files have."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from each import each
from setflow import schema


def test_the_features_stand_in_the_order_of_jetnet() -> None:
    assert schema.names(schema.PARTICLE_FEATURES) == ("etarel", "phirel", "ptrel", "mask")
    assert schema.names(schema.JET_FEATURES) == ("pt", "eta", "mass", "num_particles")


def test_units() -> None:
    assert schema.PARTICLE_UNITS == ("", "rad", "", "")
    assert schema.JET_UNITS == ("GeV", "", "GeV", "")
    assert schema.RELATIVE_JET_UNITS == ("jet pT", "", "jet pT", "")


def test_the_datasets_and_their_dtypes() -> None:
    assert {spec.key: np.dtype(spec.dtype) for spec in schema.DATASETS} == {
        "particle_features": np.float32,
        "jet_features": np.float32,
        "particle_type": np.int8,
        "event_number": np.int64,
        "weight": np.float64,
    }
    assert [spec.key for spec in schema.DATASETS if spec.required] == [
        "particle_features",
    ]


def test_the_codes_of_particle_types_are_their_positions_and_differ() -> None:
    assert [kind.code for kind in schema.PARTICLE_TYPES] == list(range(9))
    assert schema.PARTICLE_TYPES[0].name == "padding"
    assert len({kind.name for kind in schema.PARTICLE_TYPES}) == 9
    assert {kind.name: kind.charge for kind in schema.PARTICLE_TYPES} == {
        "padding": 0,
        "photon": 0,
        "charged hadron +": 1,
        "charged hadron -": -1,
        "neutral hadron": 0,
        "electron -": -1,
        "electron +": 1,
        "muon -": -1,
        "muon +": 1,
    }


def test_an_axis_label_carries_its_unit() -> None:
    pt, eta, mass, _ = schema.JET_FEATURES
    assert schema.axis_label(pt) == r"jet $p_T$ [GeV]"
    assert schema.axis_label(eta) == r"jet $\eta$"
    assert schema.axis_label(mass, unit=schema.RELATIVE_JET_UNITS[2]) == "jet mass [jet pT]"


@each(
    "label",
    [
        entry.label
        for entry in (*schema.PARTICLE_FEATURES, *schema.JET_FEATURES, *schema.PARTICLE_TYPES)
    ],
)
def test_every_label_is_valid_mathtext(label: str) -> None:
    with matplotlib.rc_context({"text.usetex": False}):
        figure = Figure()
        text = figure.text(0.5, 0.5, label)
        figure.draw_without_rendering()  # raises on mathtext that does not parse
    assert text.get_window_extent().width > 0
