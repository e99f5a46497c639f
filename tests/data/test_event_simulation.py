"""Whole events, made by hand: what is an object of which type, and what is dropped and counted."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from setflow.data import event_simulation, recipes
from setflow.data.event_simulation import Record, channels_of, objects_of, pair_mass
from setflow.data.hdf5 import read_events
from setflow.data.header import read_header
from setflow.data.recipe_keys import EventRecipe, JetRecipe, Recipe
from setflow.data.recipes import make_dataset
from setflow.data.sample import EventSample
from setflow.physics.collisions import CollisionMeasure
from setflow.schema import COLLISIONS, OBJECT_TYPES, TOP_PAIR_CHANNELS, Schema, names

NAME = "pythia-ttbar-events"
FOLDER = Path(recipes.__file__).parents[2] / "datasets" / NAME
WHY = "simulating events needs `pip install 'setflow[pythia]'`"
AT = {name: k for k, name in enumerate(names(COLLISIONS.objects))}
SYSTEM, PROTON, W, B, QUARK = 90, 2212, 24, 511, 1
PION = 0.13957


@pytest.fixture(scope="module")
def recipe() -> EventRecipe:
    pytest.importorskip("fastjet", reason=WHY)
    loaded = Recipe.load(NAME)
    assert isinstance(loaded, EventRecipe)
    return loaded


class Made:
    """Particles of collisions, added one by one."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.event = -1
        self.next()

    def next(self) -> None:
        """Begin a collision, with its protons."""
        self.event += 1
        self.first = len(self.rows)
        self.add(SYSTEM, status=-11)
        self.proton = self.add(PROTON, status=-12)

    def add(
        self,
        pdg: int,
        pt: float = 0.0,
        eta: float = 0.0,
        phi: float = 0.0,
        *,
        mother: int | Sequence[int] = (),
        status: int = 1,
        mass: float = 0.0,
    ) -> int:
        """Add a particle and return its place; without a mother it is of the system."""
        mothers = [mother] if isinstance(mother, int) else list(mother)
        mothers = (mothers + 2 * [self.first])[:2]
        px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
        e = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
        self.rows.append((self.event, pdg, status, mothers, (px, py, pz, e)))
        return len(self.rows) - 1

    def gone(self, pdg: int, mother: int | Sequence[int] = (), **kinematics: float) -> int:
        """Add a particle that decays."""
        return self.add(pdg, **kinematics, mother=mother, status=-22)

    def record(self) -> Record:
        event, pdg, status, mothers, p = zip(*self.rows, strict=True)
        return Record(
            *(np.array(part, np.int64) for part in (event, pdg, status)),
            np.array(mothers, np.int64).T,
            np.array(p, float).T,
        )


def _objects(made: Made, recipe: EventRecipe) -> list[NDArray[np.float64]]:
    return objects_of(made.record(), recipe)


def _types(objects: NDArray[np.float64]) -> list[str]:
    return [OBJECT_TYPES[int(code)] for code in objects[:, AT["type"]]]


# --- leptons -------------------------------------------------------------------------------------


def _of_w(made: Made) -> int:
    return made.gone(W)


def _of_tau_of_w(made: Made) -> int:
    return made.gone(15, mother=made.gone(15, mother=made.gone(W)))  # and a copy of it


def _of_hadron(made: Made) -> int:
    return made.gone(B)


def _of_tau_of_hadron(made: Made) -> int:
    return made.gone(15, mother=made.gone(431))


def _of_charm_of_b(made: Made) -> int:
    return made.gone(421, mother=made.gone(B))


def _of_photon(made: Made) -> int:
    return made.gone(22, mother=made.gone(QUARK, mother=made.gone(W)))


def _of_hadron_of_w(made: Made) -> int:
    return made.gone(113, mother=made.gone(QUARK, mother=made.gone(W)))


@pytest.mark.parametrize(
    ("origin", "is_lepton"),
    [
        (_of_w, True),
        (_of_tau_of_w, True),
        (_of_hadron, False),
        (_of_tau_of_hadron, False),
        (_of_charm_of_b, False),
        (_of_photon, False),
        (_of_hadron_of_w, False),
    ],
)
@pytest.mark.parametrize("pdg", [11, -11, 13, -13])
def test_leptons_are_of_a_w_or_a_tau_and_of_no_hadron(
    recipe: EventRecipe, origin: Callable[[Made], int], is_lepton: bool, pdg: int
) -> None:
    made = Made()
    radiates = made.gone(pdg, mother=origin(made))
    made.add(pdg, 40.0, 1.0, 0.5, mother=radiates)
    (objects,) = _objects(made, recipe)
    assert len(objects) == 1
    if not is_lepton:
        assert _types(objects) == ["jet"], "what is no lepton is clustered"
        return
    row = dict(zip(AT, objects[0].tolist(), strict=True))
    charge = COLLISIONS.object("charge").of_kind
    assert row["type"] == OBJECT_TYPES.index("electron" if abs(pdg) == 11 else "muon")
    assert row["charge"] == charge.code("minus" if pdg > 0 else "plus")  # type: ignore[attr-defined]
    assert [row[key] for key in ("pt", "eta", "phi")] == pytest.approx([40.0, 1.0, 0.5])
    assert row["mass"] == row["b_hadron"] == 0


def test_the_cuts_on_leptons(recipe: EventRecipe) -> None:
    made = Made()
    mother = made.gone(W)
    for pt, eta in ((19.9, 0.0), (20.1, -1.0), (50.0, 2.51), (50.0, -2.49)):
        made.add(11, pt, eta, mother=mother)
    (objects,) = _objects(made, recipe)
    assert _types(objects) == ["electron", "electron"], "50 GeV at 2.51 is a jet beyond the cut"
    assert objects[:, 0] == pytest.approx([50.0, 20.1])


def test_the_ancestors_may_stand_behind_and_be_two(recipe: EventRecipe) -> None:
    made = Made()
    # shower partons before their mothers, as in Pythia's record, and a proton among them
    place = len(made.rows)
    made.gone(21, mother=(place + 1, made.proton))
    made.gone(21, mother=made.proton)
    hadron = made.gone(331, mother=(place, place + 1))
    made.add(13, 30.0, mother=made.gone(W, mother=(made.first, hadron)))
    w = made.gone(W, mother=made.gone(6, mother=place))
    made.add(13, 60.0, 1.0, mother=w)
    (objects,) = _objects(made, recipe)
    assert _types(objects) == ["muon", "jet"], "protons are no ancestors, second mothers are"
    assert objects[0, 0] == pytest.approx(60)


# --- photons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neighbours", "is_photon"),
    [
        ([], True),
        ([(211, 4.9, 0.1)], True),
        ([(211, 5.1, 0.1)], False),
        ([(211, 2.6, 0.1), (2112, 2.6, -0.29)], False),
        ([(211, 40.0, 0.31)], True),
        ([(12, 40.0, 0.1)], True),  # nobody sees it
        ([(11, 40.0, 0.2)], False),  # an electron is a particle, too
    ],
)
@pytest.mark.parametrize("phi", [0.0, np.pi])
def test_the_cone_around_a_photon(
    recipe: EventRecipe, neighbours: list[tuple[int, float, float]], is_photon: bool, phi: float
) -> None:
    made = Made()
    made.add(22, 50.0, 0.3, phi - 0.1, mother=made.gone(2, mother=made.proton))
    for pdg, pt, distance in neighbours:
        made.add(pdg, pt, 0.3, phi - 0.1 + distance)
    made.next()
    made.add(211, 40.0, 0.3, phi - 0.1)  # in the cone, but of another collision
    objects, _ = _objects(made, recipe)
    assert ("photon" in _types(objects)) == is_photon
    if is_photon:
        assert objects[_types(objects).index("photon"), 0] == pytest.approx(50)


def test_photons_of_hadrons_are_none_and_those_that_are_do_not_enter_jets(
    recipe: EventRecipe,
) -> None:
    made = Made()
    made.add(22, 50.0, 1.0, 0.0, mother=made.gone(111))
    made.add(22, 60.0, 1.0, 2.0, mother=made.gone(11, mother=made.gone(W)))
    made.add(22, 19.0, 1.0, -2.0, mother=made.proton)
    made.add(22, 90.0, 2.6, -2.0, mother=made.proton)
    (objects,) = _objects(made, recipe)
    assert _types(objects) == ["photon", "jet"]
    assert objects[:, 0] == pytest.approx([60.0, 50.0])


# --- jets ----------------------------------------------------------------------------------------


def test_leptons_and_photons_are_taken_out_before_clustering(recipe: EventRecipe) -> None:
    made = Made()
    made.add(211, 60.0, 0.0, 0.0, mass=PION)
    made.add(13, 40.0, 0.0, 0.1, mother=made.gone(W))
    made.add(14, 80.0, 0.0, 0.1, mother=made.gone(W))
    made.add(13, 10.0, 0.1, 0.0, mother=made.gone(W))  # too soft for a lepton: in the jet
    made.add(22, 50.0, 1.5, 3.0)
    made.add(-211, 27.0, 1.5, 2.65, mass=PION)  # outside the cone of the photon, inside its R
    (objects,) = _objects(made, recipe)
    assert _types(objects) == ["muon", "photon", "jet", "jet", "missing_momentum"]
    muon, photon, hard, soft, missing = objects
    px, py = 60 + 10.0, 0.0
    pz = 10 * np.sinh(0.1)
    energy = np.sqrt(60**2 + PION**2) + 10 * np.cosh(0.1)
    mass = np.sqrt(energy**2 - px**2 - py**2 - pz**2)
    assert hard[:4] == pytest.approx([70, np.arcsinh(pz / px), 0, mass], abs=1e-9)
    assert soft[0] == pytest.approx(27)
    assert (muon[0], photon[0]) == pytest.approx((40, 50))
    assert missing[[0, 2]] == pytest.approx([80, 0.1])


def test_the_cuts_on_jets_and_the_acceptance_of_particles(recipe: EventRecipe) -> None:
    made = Made()
    for pt, eta, phi in ((24.9, 0, 0), (25.1, 0, 1), (90, 2.51, 2), (80, -2.49, 3)):
        made.add(211, pt, eta, phi, mass=PION)
    made.add(211, 500.0, 5.1, 1.0, mass=PION)
    (objects,) = _objects(made, recipe)
    assert objects[:, 0] == pytest.approx([80, 25.1])
    close = dataclasses.replace(recipe, particle_eta=2.0)
    assert objects_of(made.record(), close)[0][:, 0] == pytest.approx([25.1])


def test_a_jet_without_mass_is_stored_with_a_small_one(recipe: EventRecipe) -> None:
    made = Made()
    made.add(22, 50.0, 0.0, 0.0, mother=made.gone(111))
    made.add(22, 50.0, 1.0, 2.0, mother=made.gone(111))
    made.add(22, 1.0, 1.01, 2.0, mother=made.gone(111))
    (objects,) = _objects(made, recipe)
    opening = np.sqrt(2 * 50 * 1 * (np.cosh(0.01) - 1))
    assert opening > recipe.jet_mass == 0.01
    assert objects[:, AT["mass"]] == pytest.approx([opening, 0.01])


def test_jets_are_flagged_by_b_hadrons(recipe: EventRecipe) -> None:
    made = Made()
    for phi in (0.0, 1.5, 3.0):
        made.add(211, 50.0, 0.0, phi, mass=PION)
    excited = made.gone(513, pt=60.0, eta=0.0, phi=1.5, mass=5.3)  # decays to a b hadron elsewhere
    made.gone(B, mother=excited, pt=40.0, eta=0.0, phi=0.2, mass=5.28)
    made.gone(-5122, pt=4.9, eta=0.0, phi=3.0, mass=5.6)  # too soft
    made.gone(421, pt=40.0, eta=0.0, phi=3.0, mass=1.9)  # with charm alone
    (objects,) = _objects(made, recipe)
    flags = {round(row[AT["phi"]], 3): row[AT["b_hadron"]] for row in objects}
    assert flags == {0.0: 1, 1.5: 0, 3.0: 0}
    assert objects[:, 0] == pytest.approx([50] * 3, rel=1e-12), "it adds no momentum"


# --- missing momentum ----------------------------------------------------------------------------


def test_missing_momentum_is_that_of_all_neutrinos(recipe: EventRecipe) -> None:
    made = Made()
    made.add(12, 30.0, 0.0, 0.0, mother=made.gone(W))
    made.add(-14, 40.0, 4.0, np.pi / 2, mother=made.gone(B))
    made.add(16, 10.0, 7.0, 0.0)
    made.add(12, 99.0, status=-23)  # not final
    (objects,) = _objects(made, recipe)
    assert _types(objects) == ["missing_momentum"]
    assert objects[0, :4] == pytest.approx([np.hypot(40, 40), 0, np.pi / 4, 0])
    assert (objects[0, [AT["charge"], AT["b_hadron"]]] == 0).all()


@pytest.mark.parametrize(("pt", "there"), [(0.999, False), (1.0, True)])
def test_missing_momentum_is_absent_below_a_threshold(
    recipe: EventRecipe, pt: float, there: bool
) -> None:
    made = Made()
    made.add(12, 50.0 + pt, 1.0, 0.0)
    made.add(-12, 50.0, -2.0, np.pi)
    objects, = _objects(made, recipe)  # fmt: skip
    assert len(objects) == there


# --- events --------------------------------------------------------------------------------------


def test_objects_stand_by_type_and_then_by_momentum_each_in_its_collision(
    recipe: EventRecipe,
) -> None:
    made = Made()
    made.add(14, 99.0, mother=made.gone(W))
    made.add(211, 30.0, 0.0, 1.0)
    made.add(211, 70.0, 0.0, 2.0)
    made.add(13, 21.0, 0.0, 3.0, mother=made.gone(W))
    made.next()
    made.next()
    made.add(11, 22.0, mother=made.gone(W))
    found = _objects(made, recipe)
    assert [_types(objects) for objects in found] == [
        ["muon", "jet", "jet", "missing_momentum"],
        [],
        ["electron"],
    ]
    assert found[0][:, 0] == pytest.approx([21, 70, 30, 99])


def _decays(made: Made, *products: int) -> None:
    for sign, lepton in zip((1, -1), products, strict=True):
        w = made.gone(sign * 24, mother=made.gone(sign * 24, mother=made.gone(sign * 6)))
        if lepton == QUARK:
            made.gone(2 * sign, mother=w)
            made.gone(-1 * sign, mother=w)
            made.add(13, mother=made.gone(431))  # of a hadron, whatever its W was
        else:
            first = made.gone(-sign * lepton, mother=w)
            made.gone(-sign * lepton, mother=first)
            made.add(sign * (lepton + 1), mother=w)


def test_the_channel_is_how_the_two_w_bosons_decay() -> None:
    cases = {
        "all_hadronic": [(QUARK, QUARK)],
        "electron_jets": [(11, QUARK), (QUARK, 11)],
        "muon_jets": [(13, QUARK), (QUARK, 13)],
        "tau_jets": [(15, QUARK), (QUARK, 15)],
        "dileptonic": [(11, 11), (13, 13), (15, 15), (11, 13), (15, 11), (13, 15)],
    }
    made, expected = Made(), []
    for channel, pairs in cases.items():
        for pair in pairs:
            made.next()
            _decays(made, *pair)
            expected.append(TOP_PAIR_CHANNELS.index(channel))
    assert channels_of(made.record()).tolist()[1:] == expected


def test_the_mass_of_the_pair_is_that_of_the_last_copies() -> None:
    made = Made()
    for pt, sign in ((200.0, 1), (200.0, -1)):
        first = made.gone(6 * sign, pt=500.0, phi=0.0, mass=171.0)
        last = made.gone(6 * sign, mother=first, pt=pt, phi=0.0 if sign > 0 else np.pi, mass=171.0)
        made.gone(24 * sign, mother=last)
    expected = 2 * np.sqrt(200**2 + 171**2)
    assert pair_mass(made.record()) == pytest.approx([expected])


# --- files ---------------------------------------------------------------------------------------


def _events(sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """Objects of collisions: so many jets, whose pt tells the collision and the jet."""
    found = []
    for event, size in enumerate(sizes):
        rows = np.zeros((size, len(AT)))
        rows[:, 0] = 30 + event + np.arange(size)[::-1] / 16
        rows[:, AT["mass"]], rows[:, AT["type"]] = 5, OBJECT_TYPES.index("jet")
        found.append(rows)
    return found


@pytest.mark.parametrize("enough", [6, 99])
def test_events_with_too_few_or_too_many_objects_are_dropped_and_counted(
    tmp_path: Path, recipe: EventRecipe, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    sizes = [2, 3, 16, 17, 4, 0, 5, 20, 1, 3, 2, 2]
    recipe = dataclasses.replace(recipe, block=len(sizes))
    monkeypatch.setattr(event_simulation, "start_pythia", lambda *_: None)
    monkeypatch.setattr(event_simulation, "_record", lambda *_: None)
    monkeypatch.setattr(event_simulation, "objects_of", lambda *_: _events(sizes))
    count = np.arange(len(sizes))
    monkeypatch.setattr(event_simulation, "channels_of", lambda _: count % 5)
    monkeypatch.setattr(event_simulation, "pair_mass", lambda _: 400.0 + count)
    block = event_simulation.make_event_block(recipe, 1, 2, enough)
    kept = [1, 2, 4, 6, 9]
    assert block["events"].tolist() == [24 + k for k in kept]
    assert block["lengths"].tolist() == [3, 16, 4, 5, 3]
    assert block["found"].tolist() == sizes
    assert block["context"][:, 0].tolist() == [k % 5 for k in kept]
    assert block["context"][:, 1].tolist() == [400.0 + k for k in kept]
    sums = [_events(sizes)[k][:, 0].sum() for k in kept]
    assert block["context"][:, 2] == pytest.approx(sums, rel=2**-13)
    monkeypatch.setattr(recipes.Recipe, "load", staticmethod(lambda _: recipe))
    path = make_dataset("", events=7, out=tmp_path / "a.h5", progress=False)
    told = read_header(path).attributes
    # five of the first block of twelve, and two of the next, of which five are looked at to the end
    # of the second one kept: 2, 3, 16
    assert told["collisions"] == 12 + 3
    assert told["too_few_objects"] == 5 + 1
    assert told["too_many_objects"] == 2
    sample = read_events(path)
    assert sample.objects.lengths.tolist() == [3, 16, 4, 5, 3, 3, 16]
    assert sample.event_number is not None
    assert sample.event_number.tolist() == [1, 2, 4, 6, 9, 13, 14]


def test_no_event_that_can_be_kept(recipe: EventRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(recipe, block=2)
    monkeypatch.setattr(event_simulation, "start_pythia", lambda *_: None)
    monkeypatch.setattr(event_simulation, "_record", lambda *_: None)
    monkeypatch.setattr(event_simulation, "objects_of", lambda *_: _events([1, 2]))
    monkeypatch.setattr(event_simulation, "channels_of", lambda _: np.zeros(2))
    monkeypatch.setattr(event_simulation, "pair_mass", lambda _: np.ones(2))
    with pytest.raises(RuntimeError, match="none of 2 collisions has 3 to 16 objects by recipe p"):
        event_simulation.make_event_block(recipe, 1, 0, 1)


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason=WHY)
    pytest.importorskip("fastjet", reason=WHY)
    text = (FOLDER / "recipe.yaml").read_text()
    assert text.count("block: 1000") == 1
    (tmp_path / "recipe.yaml").write_text(text.replace("block: 1000", "block: 12"))
    options: dict[str, Any] = {"events": 30, "seed": 5, "progress": False}
    alone = make_dataset(tmp_path, out=tmp_path / "alone.h5", jobs=1, **options)
    pair = make_dataset(tmp_path, out=tmp_path / "pair.h5", jobs=2, **options)
    assert alone.read_bytes() == pair.read_bytes()
    header = read_header(alone)
    assert header.schema == COLLISIONS
    sample = read_events(alone, features=header.features)
    assert len(sample) == 30
    assert sample.event_number is not None
    numbers = sample.event_number.tolist()
    assert sorted(set(numbers)) == numbers
    assert numbers[-1] >= 24
    assert int(header.attributes["collisions"]) == numbers[-1] + 1
    assert sample.objects.lengths.min() >= 3
    kind = sample.objects.x[..., AT["type"]]
    jets = sample.objects.mask & (kind == OBJECT_TYPES.index("jet"))
    ht = (sample.objects.x[..., 0] * jets).sum(1)
    assert torch.allclose(ht, sample.event[:, 2], rtol=2**-12)


# --- the shipped files ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["train.h5", "heldout.h5"])
def shipped(request: pytest.FixtureRequest) -> tuple[Path, EventSample]:
    path = FOLDER / request.param
    return path, read_events(path, features=names(COLLISIONS.objects))


def test_the_files_are_those_of_the_card(shipped: tuple[Path, EventSample]) -> None:
    path, sample = shipped
    keys = ("file", "events", "seed", "collisions", "dropped", "size", "sha256")
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] == path.name:
            break
    card = dict(zip(keys, cells, strict=True))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    assert f"{path.stat().st_size / 1e6:.1f} MB" == card["size"]
    assert len(sample) == int(card["events"])
    told = read_header(path).attributes
    assert told["recipe"] == NAME
    assert (told["pythia8mc"], told["fastjet"]) == ("8.317.2", "3.5.2.0")
    dropped = int(told["too_few_objects"]) + int(told["too_many_objects"])
    assert int(told["collisions"]) == int(card["collisions"]) == len(sample) + dropped
    assert int(card["dropped"]) == dropped
    wanted = {"events": int(card["events"]), "seed": int(card["seed"])}
    assert Recipe.load(FOLDER).samples[path.name] == wanted
    assert int(told["seed"]) == wanted["seed"]


def test_the_files_are_small_and_share_no_event() -> None:
    paths = [FOLDER / name for name in ("train.h5", "heldout.h5")]
    assert sum(path.stat().st_size for path in paths) < 4e6
    rows = [set(map(tuple, read_events(path).event[:, 1:].tolist())) for path in paths]
    assert len(rows[0] & rows[1]) < 5, "m_tt and HT, rounded, may agree by chance"


def test_the_objects_pass_the_cuts_of_the_recipe(shipped: tuple[Path, EventSample]) -> None:
    _, sample = shipped
    recipe = Recipe.load(FOLDER)
    assert isinstance(recipe, EventRecipe)
    x, mask = sample.objects.x, sample.objects.mask
    lengths = sample.objects.lengths
    assert lengths.min() == recipe.objects[0]
    assert lengths.max() <= recipe.objects[1]
    kind = x[..., AT["type"]]
    rounding = 1 + 2**-13
    cuts = {
        "electron": (recipe.lepton_pt, recipe.lepton_eta),
        "muon": (recipe.lepton_pt, recipe.lepton_eta),
        "photon": (recipe.photon_pt, recipe.photon_eta),
        "jet": (recipe.jet_pt, recipe.jet_eta),
    }
    for code, name in enumerate(OBJECT_TYPES):
        pt, eta, phi, mass, _, charge, b = x[mask & (kind == code)].T
        lowest, widest = cuts.get(name, (recipe.missing_pt, 0))
        assert lowest <= pt.min() * rounding < 1.2 * lowest
        assert eta.abs().max() <= widest * rounding
        assert phi.min() >= -np.pi
        assert phi.max() < np.pi
        assert ((mass > 0) == (name == "jet")).all()
        assert ((charge > 0) == (name in ("electron", "muon"))).all()
        assert (b > 0).any() == (name == "jet")
    missing = (kind == OBJECT_TYPES.index("missing_momentum")) & mask
    assert missing.sum(1).max() == 1
    later = kind[:, 1:] > kind[:, :-1]
    softer = (kind[:, 1:] == kind[:, :-1]) & (x[:, 1:, 0] <= x[:, :-1, 0])
    assert (later | softer)[mask[:, 1:]].all(), "by type, and then by falling pt"


def test_the_channels_and_the_peaks_are_those_of_top_quarks(
    shipped: tuple[Path, EventSample],
) -> None:
    _, sample = shipped
    channel = sample.event[:, 0].long()
    shares = channel.bincount(minlength=5).double() / len(sample)
    assert shares[0] == pytest.approx(0.457, abs=0.015)
    assert shares[1:4].sum() == pytest.approx(0.438, abs=0.015)
    assert shares[4] == pytest.approx(0.105, abs=0.01)
    assert (sample.event[:, 1] > 342).double().mean() > 0.98, "twice the top mass, but for widths"
    found = CollisionMeasure(COLLISIONS.objects, sample.objects)(sample.objects)
    leptons = found.column("n_electron")[0] + found.column("n_muon")[0]
    assert leptons[channel == 0].max() == 0
    assert leptons[(channel > 0) & (channel < 4)].max() == 1
    assert leptons[channel == 4].max() == 2
    single = found.select(((channel == 1) | (channel == 2)).nonzero()[:, 0])
    for name, low, high, expected in (
        ("w_mass", 0, 300, (72, 88)),
        ("top_mass", 0, 500, (155, 180)),
        ("transverse_mass", 0, 200, (70, 84)),
    ):
        values = single.column(name)[0]
        counts, edges = torch.histogram(values, 50, range=(low, high))
        peak = (edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
        assert expected[0] < peak < expected[1], name


@pytest.mark.usefixtures("recipe")
def test_the_shipped_file_can_be_made_again(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason=WHY)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the simulation gives the same bits on the platform of the files only")
    made = make_dataset(NAME, events=40, seed=1, out=tmp_path / "a.h5", progress=False)
    held = names(COLLISIONS.objects)
    new, old = (
        read_events(made, features=held),
        read_events(FOLDER / "train.h5", stop=40, features=held),
    )
    width = new.objects.mask.shape[1]
    assert torch.equal(new.objects.mask, old.objects.mask[:, :width])
    assert torch.equal(new.objects.x, old.objects.x[:, :width])
    assert torch.equal(new.event, old.event)


# --- recipes and schema --------------------------------------------------------------------------


def test_the_recipe_is_that_of_the_card() -> None:
    recipe = Recipe.load(NAME)
    assert isinstance(recipe, EventRecipe)
    assert recipe.energy == 13000.0
    assert recipe.processes == ("Top:gg2ttbar", "Top:qqbar2ttbar")
    assert (recipe.lepton_pt, recipe.lepton_eta) == (20.0, 2.5)
    assert (recipe.photon_pt, recipe.photon_eta) == (20.0, 2.5)
    assert (recipe.photon_cone, recipe.photon_isolation) == (0.3, 0.1)
    assert (recipe.radius, recipe.jet_pt, recipe.jet_eta) == (0.4, 25.0, 2.5)
    assert (recipe.missing_pt, recipe.objects) == (1.0, (3, 16))
    assert recipe.invisible == (12, 14, 16)
    assert isinstance(Recipe.load("pythia-top"), JetRecipe)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stores: events", "stores: tracks", "stores is 'tracks', expected jets or events"),
        ("stores: events", "", r"unknown key '.*'"),
        ("lepton_pt: 20.0", "", r"missing \['lepton_pt'\]"),
        ("jet_pt: 25.0", "jet_pt: -1.0", "jet_pt is -1.0, expected more than 0"),
        ("objects: [3, 16]", "objects: [16, 3]", r"objects is \(16, 3\), expected the smallest"),
        ("objects: [3, 16]", "objects: 16", "'int' object is not iterable"),
    ],
)
def test_a_recipe_of_events_that_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (FOLDER / "recipe.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "recipe.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        Recipe.load(tmp_path)


def test_the_schema_says_what_each_type_lacks() -> None:
    lacking = {
        name: [feature.name for feature in COLLISIONS.objects if name in feature.absent]
        for name in OBJECT_TYPES
    }
    assert lacking == {
        "electron": ["mass"],
        "muon": ["mass"],
        "photon": ["mass"],
        "jet": [],
        "missing_momentum": ["eta", "mass"],
    }
    assert Schema.from_node(COLLISIONS.node()) == COLLISIONS
    assert COLLISIONS.order_by == "pt"
    assert [feature.name for feature in COLLISIONS.event if feature.derived] == ["ht"]
