"""Statistics of typed objects in files of which a part is read at a time, and unknown types."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

import setflow
from each import each
from setflow.data import EventWriter
from setflow.distributions import composition
from setflow.schema import Feature, Schema
from setflow.training import SetDataModule, sources

SCHEMA = Schema(
    [
        Feature("pt", "GeV", "positive"),
        Feature("phi", "rad", "angle"),
        Feature("mass", "GeV", "positive", absent=["lepton", "met"]),
        Feature("kind", kind="category(lepton, jet, met)"),
        Feature("charge", kind="category(none, minus, plus)"),
    ],
    [Feature("ht", "GeV")],
    order_by="pt",
)
LEPTONS = ("lepton, charge=minus", "lepton, charge=plus")
pytestmark = pytest.mark.filterwarnings("ignore:.* holds weights of its events that are not used")


def write(path, n, seed, *, rare=(), event=None):
    """Write typed events with weights, some negative; at `event` stands an object `rare`."""
    rng = np.random.default_rng(seed)
    mask = np.arange(7) < rng.integers(1, 8, n)[:, None]
    kind = rng.choice(3, (n, 7), p=[0.3, 0.6, 0.1])
    charge = np.where(kind == 0, 1, 0)
    if event is not None:
        kind[event, 0], charge[event, 0] = rare
    mass = np.where(kind == 1, rng.exponential(10, (n, 7)) + 1, 0)
    phi = (rng.normal(3.0, 0.5 + kind) + np.pi) % (2 * np.pi) - np.pi
    pt = np.sort(rng.exponential(50, (n, 7)) + 20 + 10 * kind)[:, ::-1]
    x = np.stack([pt, phi, mass, kind, charge], -1).astype("f4")
    plain = path.with_suffix(".hdf5")
    with EventWriter(plain, SCHEMA, objects=7, overwrite=True) as writer:
        weight = np.where(np.arange(n) % 7 == 0, -0.5, 1.0 + rng.integers(0, 3, n))
        writer.write(setflow.SetBatch(x, mask, None, weight), rng.normal(300, 50, (n, 1)))
    with h5py.File(plain) as one, h5py.File(path, "w") as file:  # in chunks of 16 rows
        file.attrs.update(one.attrs)
        for key, held in one.items():
            chunks = (16, *held.shape[1:])
            file.create_dataset(key, data=held[:], chunks=chunks).attrs.update(held.attrs)
    plain.unlink()
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "BLOCK_BYTES", 20 * 7 * 5 * 4)
    return [write(tmp_path / f"{k}.h5", n, k) for k, n in enumerate((300, 90, 40))]


def module(train, **options):
    features = tuple(feature.name for feature in SCHEMA.objects)
    given = {"max_objects": 5, "batch_size": 64, "seed": 1, "val_fraction": 0.2, **options}
    data = SetDataModule(train, given.pop("val", None), features=features, **given)
    data.setup("fit")
    return data


def flow(law=setflow.EmpiricalComposition, conditions=(), columns=0, **options):
    field = setflow.TransformerField(
        3, hidden=8, layers=1, heads=1, angles=[1], object_condition_dim=columns + 6
    )
    types = law(9, 5, columns, hidden=8) if columns else law(9, 5)
    return setflow.SetFlow(
        field, schema=options.pop("schema", SCHEMA), conditions=conditions, cardinality=types,
        features=[feature.name for feature in SCHEMA.objects],
    )  # fmt: skip


def in_memory(data):
    """Return all events of the training side of a module that does not hold them."""
    return sources.together([batch.events for batch in data.train_dataloader()])


def assert_same(found, expected):
    left_out = ("field.", "cardinality.net", "cardinality.number.net")
    found, expected = found.state_dict(), expected.state_dict()
    statistics = [name for name in expected if not name.startswith(left_out)]
    assert len(statistics) > 20
    for name in statistics:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


@each("weight", [None, "weight"])
@each("law", [setflow.EmpiricalComposition, setflow.ConditionalComposition])
@each("select", [None, "ht > 280"])
def test_statistics_are_those_of_the_events_in_memory(files, weight, law, select):
    options = {"weight": weight, "select": select, "in_memory": False}
    data = module(files, **options)
    assert len(data._streams._blocks) > 20
    expected = flow(law).fit_statistics(in_memory(data))
    for _ in range(2):  # found, and from the cache
        found = module(files, **options).fit_statistics(flow(law))
        assert_same(found, expected)
    assert found.scaler.occurred == "lepton, charge=minus, jet, charge=none, met, charge=none"


def test_classes_of_files_and_rare_types(files, tmp_path):
    """A type of few objects takes the statistics of all that have its features."""
    rare = write(tmp_path / "rare.h5", 100, 9, rare=(0, 2), event=7)
    train = {"top": files[:2], "gluon": [files[2], rare]}
    schema = Schema(SCHEMA.objects, [Feature("class", kind="category(top, gluon)")], "pt")

    def made():
        return flow(
            setflow.ConditionalComposition, ["class"], 2,
            schema=schema,
        )  # fmt: skip

    # the event of the rare object has to be trained on: both sides are told by a hash
    options = {"conditions": ["class"], "in_memory": False, "seed": 5}
    data = module(train, **options)
    expected = made().fit_statistics(in_memory(data))
    found = data.fit_statistics(made())
    assert LEPTONS[1] in found.scaler.occurred
    assert int(found.scaler.objects[found.types.types.names.index(LEPTONS[1])]) == 1
    assert_same(found, expected)


def test_what_is_kept_of_many_compositions_is_the_same(files, monkeypatch):
    monkeypatch.setattr(composition.EmpiricalComposition, "__init__", _with_few_kept)
    data = module(files, in_memory=False)
    assert_same(data.fit_statistics(flow()), flow().fit_statistics(in_memory(data)))


_ordinary = composition.EmpiricalComposition.__init__


def _with_few_kept(self, types=0, max_objects=0):
    _ordinary(self, types, max_objects, kept=7)


@each("in_memory", [True, False])
def test_a_type_that_the_training_lacks_is_named_with_file_and_event(files, tmp_path, in_memory):
    later = tmp_path / "later.h5"
    later = str(later) if later.exists() else write(later, 60, 5, rare=(0, 2), event=47)
    data = module(files, val=[str(_copy(tmp_path)), later], in_memory=in_memory)
    with pytest.raises(ValueError, match=r"later.h5: event 47, which is validated on, has an "
                       r"object of type 'lepton, charge=plus', and the events that are trained on "
                       r"have lepton, charge=minus, jet, charge=none, met"):  # fmt: skip
        data.fit_statistics(flow())
    known = module(files, in_memory=in_memory).fit_statistics(flow())
    data = module([*files, later], in_memory=in_memory, val=str(_copy(tmp_path)))
    with pytest.raises(ValueError, match=r"later.h5: event 47, which is trained on, has .* and "
                       r"the training of the model had lepton"):  # fmt: skip
        data.fit_statistics(known)


def _copy(folder):
    path = folder / "val.h5"
    return path if path.exists() else write(path, 30, 77)


@each("in_memory", [True, False])
def test_a_code_that_is_no_type_is_named_with_file_and_event(files, in_memory):
    with h5py.File(files[1], "r+") as file:
        x = file["objects"][:]
        x[83, 0, 4] = 3.0
        file["objects"][:] = x
    with pytest.raises(ValueError, match=r"1.h5: row 83, object 0, column 'charge' holds 3"):
        module(files, in_memory=in_memory).fit_statistics(flow())


def test_a_type_without_features_is_counted_over_all_parts(files):
    schema = Schema(
        [
            Feature("mass", "GeV", "positive", absent=["lepton", "met"]),
            Feature("kind", kind="category(lepton, jet, met)"),
        ]
    )
    field = setflow.TransformerField(1, hidden=8, layers=1, heads=1, object_condition_dim=3)
    made = setflow.SetFlow(
        field, schema=schema, features=("mass", "kind"),
        cardinality=setflow.EmpiricalComposition(3, 7),
    )  # fmt: skip
    data = SetDataModule(files, features=("mass", "kind"), in_memory=False, max_objects=7)
    lepton = sum(
        int((batch.events.x[..., 1][batch.events.mask] == 0).sum())
        for batch in (data.setup("fit"), *data.train_dataloader())[1:]
    )
    with pytest.raises(ValueError, match=f"there are {lepton:,} objects of type 'lepton', which"):
        data.fit_statistics(made)
