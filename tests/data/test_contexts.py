"""The context that a file keeps: written, read by name in the unit and codes asked for."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from data.samples import make_sample
from each import each
from setflow.data import JetWriter, read_header, read_jets
from setflow.data.contexts import ContextSource, context_features, read_context
from setflow.schema import Feature

MASS = Feature("mass", "GeV")
CLASS = Feature("class", kind="category(top, gluon, quark)")
N = 30


def values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    mass = 100 * torch.rand(N, generator=generator, dtype=torch.float64)
    return torch.stack([torch.arange(N, dtype=torch.float64) % 3, mass], -1)


@pytest.fixture
def path(tmp_path):
    sample, context = make_sample(N, 6), values()
    with JetWriter(tmp_path / "made.h5", objects=6, context=[CLASS, MASS]) as writer:
        for rows in (slice(0, 7), slice(7, N)):
            part = sample[rows]
            writer.write(part.particles, part.jets, context=context[rows])
    return tmp_path / "made.h5"


def test_a_context_is_written_and_read_by_name(path):
    assert context_features(path) == (CLASS, MASS)
    assert np.array_equal(read_context(path, [MASS, CLASS]), values().flip(-1).numpy())
    assert np.array_equal(read_context(path, [CLASS], start=5, stop=9), values()[5:9, :1].numpy())
    assert read_header(path).n == N  # a file of jets as any other


def test_units_are_converted_and_names_of_a_category_found(path):
    with h5py.File(path, "r+") as file:
        file["context"].attrs["units"] = ["", "MeV"]
    turned = Feature("class", kind="category(quark, top, other, gluon)")
    with pytest.warns(UserWarning, match="mass from MeV to GeV"):
        got = read_context(path, [turned, MASS])
    expected = values().numpy() * [1, 1e-3]
    expected[:, 0] = np.array([1, 3, 0])[expected[:, 0].astype(int)]
    np.testing.assert_allclose(got, expected, rtol=1e-15)


@each(
    ("wanted", "message"),
    [
        (Feature("class", kind="category(top, quark)"), "class: there is no 'gluon' among top"),
        (Feature("class"), "class is of kind category.top, gluon, quark., expected real"),
        (Feature("mass", kind="category(light, heavy)"), "mass is of kind real, expected category"),
    ],
)  # fmt: skip
def test_another_meaning_is_refused(path, wanted, message):
    with pytest.raises(ValueError, match=message):
        read_context(path, [wanted])


def test_units_are_compared_whatever_they_are(path):
    """Also those that nothing is known of; where the dataset has none, they are taken as right."""
    with h5py.File(path, "r+") as file:
        file["context"].attrs["units"] = ["", "hits"]
    with pytest.raises(ValueError, match="mass stands in units of 'hits', expected 'pe'"):
        read_context(path, [Feature("mass", "pe")])
    with h5py.File(path, "r+") as file:
        del file["context"].attrs["units"]
    assert np.array_equal(read_context(path, [MASS])[:, 0], values()[:, 1].numpy())


def test_angles_of_a_context_come_in_radians(path):
    with h5py.File(path, "r+") as file:
        file["context"].attrs["units"] = ["", "deg"]
        file["context"].attrs["kinds"] = [str(CLASS.kind), "angle"]
    angle = Feature("mass", "rad", "angle")
    assert context_features(path)[1] == angle
    with pytest.warns(UserWarning, match="mass from deg to rad"):
        got = read_context(path, [angle])[:, 0]
    np.testing.assert_allclose(got, np.deg2rad(values()[:, 1].numpy()), rtol=1e-15)


def test_a_name_that_no_row_has_is_no_error(path):
    """Only what stands in the rows must be known."""
    with h5py.File(path, "r+") as file:
        file["context"][:, 0] = 0
    assert read_context(path, [Feature("class", kind="category(top)")]).max() == 0


def test_the_context_counts_before_the_columns_of_the_jets(path):
    sample = read_jets(path)
    eta = Feature("eta")
    source = ContextSource(path, [eta, MASS, CLASS])
    assert source.columns == ("eta",)
    c = source.of(sample[4:9], start=4)
    assert torch.equal(c[:, 0], sample.context(["eta"])[4:9, 0].double())
    assert torch.equal(c[:, 1:], values()[4:9].flip(-1))
    fixed = ContextSource(path, [eta, MASS, CLASS], {"class": 2.0, "eta": 0.5})
    assert fixed.columns == ()
    assert fixed.of(sample)[:, [0, 2]].unique(dim=0).tolist() == [[0.5, 2.0]]


def test_without_a_context_the_columns_of_the_jets_are_read_as_before(tmp_path):
    sample = make_sample(N, 6)
    with JetWriter(tmp_path / "jets.h5", objects=6) as writer:
        writer.write(sample.particles, sample.jets)
    source = ContextSource(tmp_path / "jets.h5", [MASS])
    read = read_jets(tmp_path / "jets.h5", conditions=source.columns)
    assert context_features(tmp_path / "jets.h5") == ()
    assert source.of(read).dtype == torch.float32
    assert torch.equal(source.of(read), read.context(["mass"]))
    assert ContextSource(tmp_path / "jets.h5", []).of(read) is None


@each(
    ("context", "message"),
    [
        (None, "context is missing, but the writer was made with context=class, mass"),
        (torch.zeros(N, 1), r"context has shape \(30, 1\), expected \(30, 2\): class, mass"),
        (torch.full((N, 2), torch.nan), "row 0, 'class' of the context is nan; expected a finite"),
    ],
)  # fmt: skip
def test_a_context_that_does_not_fit_is_not_written(tmp_path, context, message):
    sample = make_sample(N, 6)
    with (
        pytest.raises(ValueError, match=message),
        JetWriter(tmp_path / "no.h5", objects=6, context=[CLASS, MASS]) as writer,
    ):
        writer.write(sample.particles, sample.jets, context=context)
    assert not list(tmp_path.glob("*.h5*"))


@each(
    ("attribute", "value", "message"),
    [
        ("features", ["class"], "names class; expected one name for each"),
        ("kinds", ["category(top", "real"], "its attributes do not describe its columns"),
        ("kinds", ["real"], "its attributes do not describe its columns"),
    ],
)  # fmt: skip
def test_attributes_that_do_not_describe_the_columns_are_an_error(path, attribute, value, message):
    with h5py.File(path, "r+") as file:
        before = {name: list(file["context"].attrs[name]) for name in ("features", "kinds")}
        file["context"].attrs[attribute] = value
    with pytest.raises(ValueError, match=message):
        context_features(path)
    with h5py.File(path, "r+") as file:
        for name, texts in before.items():
            file["context"].attrs[name] = texts
