"""Simulated jets: the shipped files are what their card says, and can be made again."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from setflow.data import recipes, simulation
from setflow.data.hdf5 import read_jets
from setflow.data.header import read_header
from setflow.data.jets import JetSample
from setflow.data.recipes import Recipe, make_dataset
from setflow.data.simulation import round_mantissa
from setflow.physics.kinematics import jet_mass, jet_pt
from setflow.schema import JET_UNITS

DATASETS = Path(__file__).parents[2] / "datasets"
TOP = DATASETS / "pythia-top"
WHY = "simulating jets needs `pip install 'setflow[pythia]'`"


@pytest.fixture(scope="module", params=["train.h5", "heldout.h5"])
def shipped(request: pytest.FixtureRequest) -> tuple[str, JetSample]:
    return request.param, read_jets(TOP / request.param, with_types=True)


def _card(name: str) -> dict[str, str]:
    """The row of a shipped file in the table of the card."""
    keys = ["file", "jets", "seed", "events", "size", "sha256"]
    for line in (TOP / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] == name:
            return dict(zip(keys, cells, strict=True))
    raise AssertionError(f"the card has no row for {name}")


# --- the shipped files ---------------------------------------------------------------------------


def test_the_files_are_those_of_the_card(shipped: tuple[str, JetSample]) -> None:
    name, sample = shipped
    card, path = _card(name), TOP / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    assert len(sample) == int(card["jets"])
    assert sample.event_number is not None
    assert len(sample.event_number.unique()) == int(card["events"])
    assert f"{path.stat().st_size / 1e6:.1f} MB" == card["size"]
    header = read_header(path)
    assert header.attributes["seed"] == int(card["seed"])
    assert header.attributes["recipe"] == "pythia-top"
    assert (header.attributes["pythia8mc"], header.attributes["fastjet"]) == ("8.317.2", "3.5.2.0")
    wanted = Recipe.load(TOP).samples[name]
    assert wanted == {"events": int(card["jets"]), "seed": int(card["seed"])}


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in DATASETS.rglob("*.h5")) < 13e6


def test_the_two_files_share_no_jet() -> None:
    train, heldout = (read_jets(TOP / name) for name in ("train.h5", "heldout.h5"))
    rows = [{tuple(jet) for jet in sample.jets.tolist()} for sample in (train, heldout)]
    assert [len(part) for part in rows] == [10000, 5000], "no jet stands twice in a file"
    assert not rows[0] & rows[1]


def test_the_jets_pass_the_cuts_of_the_recipe(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    recipe = Recipe.load(TOP)
    pt, eta, mass, number = sample.jets.unbind(-1)
    assert recipe.jet_pt[0] < pt.min() < recipe.jet_pt[0] + 5
    assert recipe.jet_pt[1] - 100 < pt.max() < recipe.jet_pt[1]
    assert 0.9 * recipe.jet_eta < eta.abs().max() < recipe.jet_eta
    assert mass.min() > 0
    assert torch.equal(number.long(), sample.particles.lengths)
    assert sample.particles.mask.shape[1] == recipe.objects == 150
    assert sample.jet_units == JET_UNITS


def test_the_particles_are_sorted_and_in_range(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    x, mask = sample.particles.x, sample.particles.mask
    etarel, phirel, ptrel = x.unbind(-1)
    assert (mask[:, :-1] >= mask[:, 1:]).all(), "real particles first"
    assert (ptrel[:, :-1] >= ptrel[:, 1:]).all(), "hardest first"
    assert (ptrel[mask] > 0).all()
    assert ptrel.max() <= 1
    assert (etarel + sample.jets[:, 1:2])[mask].abs().max() < 3.0 + 1e-3
    assert phirel.abs().max() < 1.5
    inside = etarel.square() + phirel.square() < 0.8**2
    assert 0.97 < (ptrel * inside).sum() / ptrel.sum() < 1
    assert (x[~mask] == 0).all()


def test_rounding_is_to_twelve_bits(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    pattern = sample.particles.x.numpy().view(np.uint32)
    assert (pattern & 0x7FF == 0).all()
    odd = (pattern & 0x800 != 0)[sample.particles.mask.numpy()]
    assert odd.mean() == pytest.approx(0.5, abs=0.01), "and not to fewer"


def test_the_jets_of_an_event_stand_together_the_harder_first(
    shipped: tuple[str, JetSample],
) -> None:
    _, sample = shipped
    events, pt = sample.event_number, sample.jets[:, 0]
    assert events is not None
    assert (events[1:] >= events[:-1]).all()
    assert events.unique(return_counts=True)[1].max() == 2
    pairs = events[1:] == events[:-1]
    assert 0.8 < 2 * pairs.double().mean() < 1
    assert (pt[:-1] >= pt[1:])[pairs].all()


def test_the_types_are_those_of_a_jet(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    types = sample.particle_type
    assert types is not None
    assert torch.equal(types > 0, sample.particles.mask)
    share = types[sample.particles.mask].long().bincount(minlength=9).double()
    share = share / share.sum()
    assert 0.40 < share[1] < 0.55, "photons, mostly of neutral pions"
    assert 0.40 < share[2:4].sum() < 0.55, "charged hadrons"
    assert 0.03 < share[4] < 0.08, "neutral hadrons"
    assert (share[5:] > 0).all()
    for plus, minus in ((2, 3), (6, 5), (8, 7)):
        assert share[plus].item() == pytest.approx(share[minus].item(), rel=0.15)


def test_the_mass_is_that_of_top_quarks(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    mass = sample.jets[:, 2].double()
    counts, edges = torch.histogram(mass, torch.arange(20.0, 400.0, 10.0, dtype=torch.float64))
    peak = edges[counts.argmax()] + 5
    assert 165 < peak < 195
    assert ((mass > 140) & (mass < 210)).double().mean() > 0.65
    assert ((mass > 60) & (mass < 100)).double().mean() < 0.05, "the W boson alone is rare"


def test_the_stored_particles_make_up_the_jet(shipped: tuple[str, JetSample]) -> None:
    _, sample = shipped
    x, mask = sample.particles.x.double(), sample.particles.mask
    pt, _, mass, _ = sample.jets.double().unbind(-1)
    assert jet_pt(x, mask).mean().item() == pytest.approx(1.0, abs=0.005)
    ratio = jet_mass(x, mask) * pt / mass  # particles taken as massless: a little lighter
    assert ratio.mean().item() == pytest.approx(0.970, abs=0.003)
    assert ratio.std() < 0.04


# --- recipes -------------------------------------------------------------------------------------


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A folder with the recipe of pythia-top, some text of it replaced."""

    def make(*replace: tuple[str, str]) -> Path:
        text = (TOP / "recipe.yaml").read_text(encoding="utf-8")
        for old, new in replace:
            assert text.count(old) == 1, f"'{old}' stands {text.count(old)} times in the recipe"
            text = text.replace(old, new)
        folder = tmp_path / "recipe"
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "processes", "settings"),
    [
        (
            "pythia-top",
            ("Top:gg2ttbar", "Top:qqbar2ttbar"),
            ("24:onMode = off", "24:onIfAny = 1 2 3 4 5"),
        ),
        ("pythia-gluon", ("HardQCD:gg2gg", "HardQCD:qqbar2gg"), ()),
        ("pythia-quark", ("HardQCD:qq2qq", "HardQCD:gg2qqbar"), ()),
    ],
)
def test_the_recipes_differ_in_the_process_alone(
    name: str, processes: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    recipe, top = Recipe.load(DATASETS / name), Recipe.load(TOP)
    assert (recipe.name, recipe.processes, recipe.settings) == (name, processes, settings)
    own = {"name", "description", "processes", "settings", "samples"}
    for key in vars(top).keys() - own:
        assert getattr(recipe, key) == getattr(top, key), key
    assert (recipe.energy, recipe.pthat, recipe.radius) == (13000.0, (900.0, 1200.0), 0.8)
    assert (recipe.particle_eta, recipe.invisible) == (3.0, (12, 14, 16))
    assert (recipe.jet_pt, recipe.jet_eta, recipe.leading) == ((800.0, 1600.0), 2.0, 2)
    assert (recipe.objects, recipe.mantissa_bits, recipe.compression) == (150, 12, 9)


def test_a_recipe_with_an_unknown_key(edited: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"unknown key 'radus', did you mean 'radius'\?"):
        Recipe.load(edited(("radius:", "radus:")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("jet_eta: 2.0", "", r"recipe\.yaml: missing \['jet_eta'\]"),
        ("jet_eta: 2.0", "jet_eta: -2.0", "jet_eta is -2.0, expected more than 0"),
        ("jet_eta: 2.0", "jet_eta: two", "could not convert string to float"),
        ("[800.0, 1600.0]", "[1600.0, 800.0]", r"jet_pt is .*, expected \[low, high\] in GeV"),
        ("[900.0, 1200.0]", "[900.0]", r"pthat is \(900.0,\), expected \[low, high\] in GeV"),
        ('["Top:gg2ttbar", "Top:qqbar2ttbar"]', "[]", "processes is empty"),
        ('["Top:gg2ttbar", "Top:qqbar2ttbar"]', "Top:gg2ttbar", "expected a list of texts"),
        ("mantissa_bits: 12", "mantissa_bits: 24", "mantissa_bits is 24, expected 1 to 23"),
        (
            "{events: 10000, seed: 1}",
            "{events: 10000}",
            r"sample 'train\.h5' has \['events'\], exp",
        ),
        ("name: pythia-top", "name: [", "is not YAML that can be read"),
        ("name: pythia-top", "name: a\nname: b", "the key 'name' stands twice, in lines"),
    ],
)
def test_a_recipe_that_is_wrong(
    edited: Callable[..., Path], old: str, new: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.load(edited((old, new)))


def test_a_folder_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipe\.yaml does not exist; a data set is a fo"):
        Recipe.load(tmp_path)
    (tmp_path / "recipe.yaml").write_text("- a list")
    with pytest.raises(ValueError, match="holds list, expected keys and values"):
        Recipe.load(tmp_path)


def test_wrong_arguments(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    with pytest.raises(ValueError, match="events=0 and jobs=1, expected at least one of each"):
        make_dataset(TOP, events=0, out=out)
    with pytest.raises(ValueError, match="seed is -1, expected 0 to 899999999"):
        make_dataset(TOP, events=1, out=out, seed=-1)
    assert not out.exists()


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    expected = r"pythia8mc is not installed; .* needs `pip install 'setflow\[pythia\]'`"
    with pytest.raises(ImportError, match=expected):
        make_dataset(TOP, events=1, out=tmp_path / "a.h5")


def test_another_version_is_used_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "9.9")
    recipe = Recipe.load(TOP)
    with pytest.warns(UserWarning, match="the same law but are not the same") as caught:
        found = recipes._versions(recipe)
    assert found == {"pythia8mc": "9.9", "fastjet": "9.9"}
    assert [str(warning.message).partition(",")[0] for warning in caught] == [
        "recipe pythia-top was made with pythia8mc 8.317.2",
        "recipe pythia-top was made with fastjet 3.5.2.0",
    ]


def test_pythia_seeds_of_runs_and_blocks_differ() -> None:
    seeds = [recipes._pythia_seed(seed, block) for seed in range(300) for block in range(300)]
    assert len(set(seeds)) == 300 * 300
    assert min(seeds) >= 1
    assert max(seeds) <= 900_000_000
    starts = np.sort([recipes._pythia_seed(seed, 0) for seed in range(300)])
    assert np.diff(starts).min() > 1_000_000, "room for a million blocks a run"


@pytest.mark.parametrize("bits", [1, 5, 12, 22, 23])
def test_rounding_is_to_the_nearest_and_ties_go_to_even(bits: int) -> None:
    generator = np.random.default_rng(0)
    size = np.float32(10.0) ** generator.uniform(-20, 20, 10000)
    values = (size * generator.choice([-1, 1], 10000)).astype(np.float32)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(values.astype(np.float64)))) - bits)
    expected = np.rint(values / spacing) * spacing  # rint takes ties to even
    assert np.array_equal(round_mantissa(values, bits), expected.astype(np.float32))
    ties = (np.arange(2**bits, 2 ** (bits + 1)) + 0.5).astype(np.float32)
    assert np.array_equal(round_mantissa(ties, bits), np.rint(ties) if bits < 23 else ties)
    assert round_mantissa(np.zeros(3, np.float32), bits).tolist() == [0.0] * 3


# --- making jets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _pythia() -> None:
    pytest.importorskip("pythia8mc", reason=WHY)
    pytest.importorskip("fastjet", reason=WHY)


def _same(first: JetSample, second: JetSample) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (first.particles.x, second.particles.x),
            (first.particles.mask, second.particles.mask),
            (first.jets, second.jets),
            (first.particle_type, second.particle_type),
            (first.event_number, second.event_number),
        )
        if a is not None and b is not None
    )


# the first to cluster in this process: FastJet prints its banner once
@pytest.mark.usefixtures("_pythia")
def test_the_progress_bar_goes_to_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_dataset(TOP, events=2, out=tmp_path / "a.h5")
    streams = capfd.readouterr()
    assert streams.out == "", "neither Pythia nor FastJet prints a banner"
    assert re.search(r"pythia-top, jets .*2/2", streams.err)


@pytest.mark.usefixtures("_pythia")
def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, edited: Callable[..., Path]
) -> None:
    folder = edited(("block: 1000", "block: 12"))  # 40 jets need at least two
    options: dict[str, Any] = {"events": 40, "seed": 5, "progress": False}
    alone = make_dataset(folder, out=tmp_path / "alone.h5", jobs=1, **options)
    pair = make_dataset(folder, out=tmp_path / "pair.h5", jobs=2, **options)
    assert alone.read_bytes() == pair.read_bytes()
    sample = read_jets(alone)
    assert len(sample) == 40
    assert sample.event_number is not None
    assert sample.event_number.max() >= 12
    assert (sample.event_number[1:] >= sample.event_number[:-1]).all()
    assert sample.event_number.unique(return_counts=True)[1].max() == 2
    assert len({tuple(jet) for jet in sample.jets.tolist()}) == 40, "no block stands twice"


@pytest.mark.usefixtures("_pythia")
def test_the_shipped_file_can_be_made_again(tmp_path: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the simulation gives the same bits on the platform of the files only")
    made = make_dataset(TOP, events=25, seed=1, out=tmp_path / "a.h5", progress=False)
    first = read_jets(TOP / "train.h5", stop=25, with_types=True)
    assert _same(read_jets(made, with_types=True), first)
    assert not _same(read_jets(TOP / "heldout.h5", stop=25), first)


@pytest.mark.usefixtures("_pythia")
def test_an_existing_file_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.h5").write_text("precious")
    monkeypatch.setattr(recipes, "make_block", lambda *_: pytest.fail("worked"))
    with pytest.raises(FileExistsError, match="exists already; choose another name"):
        make_dataset(TOP, events=1, out=tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "precious"


@pytest.mark.usefixtures("_pythia")
def test_cuts_that_no_jet_passes(tmp_path: Path, edited: Callable[..., Path]) -> None:
    folder = edited(("[800.0, 1600.0]", "[5000.0, 6000.0]"), ("block: 1000", "block: 10"))
    with pytest.raises(RuntimeError, match="none of 10 events gave a jet that passes the cuts"):
        make_dataset(folder, events=1, out=tmp_path / "a.h5", progress=False)
    assert list(tmp_path.glob("*.h5")) == []


@pytest.mark.usefixtures("_pythia")
def test_a_process_that_pythia_does_not_know(tmp_path: Path, edited: Callable[..., Path]) -> None:
    folder = edited(("Top:gg2ttbar", "Top:gg2nothing"))
    with pytest.raises(ValueError, match="Pythia does not know 'Top:gg2nothing = on' of recipe"):
        make_dataset(folder, events=1, out=tmp_path / "a.h5", progress=False)


@pytest.mark.usefixtures("_pythia")
def test_the_clustering_against_fastjet_jet_by_jet() -> None:
    from fastjet import _swig as fj

    cuts = {"jet_pt": (920.0, 1100.0), "jet_eta": 0.9, "objects": 60}  # tight: each cuts some
    recipe = dataclasses.replace(Recipe.load(TOP), **cuts)
    particles = simulation._visible_particles(simulation.start_pythia(recipe, 99), 40, recipe)
    found = list(simulation._cluster(particles, recipe))
    assert np.abs(particles["eta"]).max() < 3
    definition = fj.JetDefinition(fj.antikt_algorithm, 0.8)
    expected = []
    refused = {"pt": 0, "eta": 0}
    for event in range(40):
        here = particles["event"] == event
        momenta = np.stack([particles[key][here] for key in ("px", "py", "pz", "e")], axis=1)
        sequence = fj.ClusterSequence([fj.PseudoJet(*p) for p in momenta.tolist()], definition)
        for jet in fj.sorted_by_pt(sequence.inclusive_jets(0.0))[:2]:
            refused["pt"] += not 920 < jet.pt() < 1100
            refused["eta"] += abs(jet.eta()) >= 0.9
            if 920 < jet.pt() < 1100 and abs(jet.eta()) < 0.9:
                inside = fj.sorted_by_pt(jet.constituents())[:60]
                features = [
                    (p.eta() - jet.eta(), jet.delta_phi_to(p), p.pt() / jet.pt()) for p in inside
                ]
                expected.append((event, (jet.pt(), jet.eta(), jet.m()), features))
    assert len(found) == len(expected) > 20
    assert min(refused.values()) > 5
    for (event, jet, features, types), (other_event, other_jet, other) in zip(
        found, expected, strict=True
    ):
        assert event == other_event
        assert jet == pytest.approx(other_jet, rel=1e-8)
        assert np.allclose(features, other, atol=1e-9)
        assert types.min() >= 1
