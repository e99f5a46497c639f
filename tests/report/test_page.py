"""The report: from files to numbers and pictures, and what it refuses to overwrite."""

from __future__ import annotations

import gc
import io
import json
import math

import h5py
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from laws.laws import GARBAGE
from setflow import SetBatch
from setflow.data import EventWriter
from setflow.data.writing import JetWriter
from setflow.physics import METRICS, distances, hardest_first, jet_features
from setflow.physics.metrics import observables
from setflow.report import figures, measuring
from setflow.report.figures import QUANTITIES
from setflow.report.page import METRICS_FILE, PAGES, compare, evaluate
from setflow.schema import Feature, Schema

F64 = torch.float64


def jets(n=120, slots=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(n, 1, 1, generator=generator)
    angles = 0.3 * common * torch.randn(n, slots, 2, generator=generator)
    pt = (0.1 + common) * torch.rand(n, slots, 1, generator=generator) ** 4
    mask = torch.rand(n, slots, generator=generator) < 0.8
    return SetBatch(torch.cat([angles, pt], -1).float(), mask)


def write(path, sample):
    with JetWriter(path, objects=sample.mask.shape[1]) as writer:
        writer.write(sample, jet_features(sample.x, sample.mask))
    return path


@pytest.fixture
def files(tmp_path):
    generated, reference = jets(seed=1), jets(n=200, slots=20, seed=2)
    paths = [
        write(tmp_path / f"{name}.h5", sample)
        for name, sample in (("generated", generated), ("reference", reference))
    ]
    return *paths, generated, reference


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures have tests of their own; most of these do without."""

    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: {"mass": Figure()})


def read(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON number")

    return json.loads((folder / METRICS_FILE).read_text(), parse_constant=refuse)


def text_of(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_a_report_from_files_holds_the_numbers_and_the_pictures(files, tmp_path):
    generated_path, reference_path, generated, reference = files
    (tmp_path / "deep").mkdir()
    out = tmp_path / "deep" / "report"
    result = evaluate(generated_path, reference_path, out, pairs=3, seed=5)
    held = read(out)
    assert held == result.to_dict()
    assert list(held["metrics"]) == [metric.name for metric in METRICS]
    for metric in METRICS:
        row = held["metrics"][metric.name]
        numbers = {"value", "error", "floor", "floor_spread", "shuffled", "swapped"}
        assert set(row) == {*numbers, "unit", "verdict"}
        assert row["unit"] == metric.unit
        assert all(math.isfinite(row[key]) for key in numbers)
    assert (held["columns"], held["seed"]) == (12, 5)
    assert held["generated"] == {
        "name": str(generated_path),
        "events": 120,
        "available": 120,
        "columns": 12,
        "effective": None,
        "negative": 0,
        "weights_sha256": None,
    }
    assert held["reference"]["name"] == str(reference_path)
    assert (held["reference"]["events"], held["reference"]["columns"]) == (200, 20)
    assert held["floor"]["scaled"] is True
    assert held["floor"]["factor"] == pytest.approx(math.sqrt((1 / 120 + 1 / 200) / (4 / 200)))
    assert held["floor"]["sizes"] == [100, 100]
    names = {f"{quantity.name}.png" for quantity in QUANTITIES}
    more = ("joint_spectra", "correlations", "jet_images", "example_jets")
    assert set(held["pictures"]) == names | {f"{name}.png" for name in more}
    assert {path.name for path in out.iterdir()} == {METRICS_FILE, *PAGES, *held["pictures"]}
    assert [path.name for path in out.parent.iterdir()] == ["report"]

    same = compare(generated, reference, pairs=3, seed=5)
    assert same.metrics == result.metrics
    assert same.pictures == ()


def test_both_sides_are_cut_to_the_same_columns_hardest_first(files):
    *_, generated, reference = files
    got = compare(generated, reference, pairs=2)
    sides = [observables(*hardest_first(side.x, side.mask, 12)) for side in (generated, reference)]
    expected = distances(*sides)
    assert {name: result.value for name, result in got.metrics.items()} == expected
    turned = compare(reference, generated, pairs=2)
    assert turned.columns == 12
    for name, value in expected.items():
        assert turned.metrics[name].value == pytest.approx(value)


def test_events_caps_the_sides_and_lets_the_floor_be_exact():
    generated, reference = jets(seed=1), jets(n=200, seed=2)
    got = compare(generated, reference, events=80, pairs=3)
    assert (got.generated.events, got.generated.available) == (80, 120)
    assert (got.reference.events, got.reference.available) == (80, 200)
    assert (got.floor.sizes, got.floor.scaled, got.floor.factor) == ((80, 80), False, 1.0)
    sides = [observables(side.x[:80], side.mask[:80]) for side in (generated, reference)]
    for name, value in distances(*sides).items():
        assert got.metrics[name].value == pytest.approx(value, rel=1e-10)
    assert compare(generated, reference, events=10_000, pairs=2).generated.events == 120


def test_what_stands_in_the_padding_does_not_matter():
    generated, reference = jets(seed=1), jets(n=200, seed=2)
    expected = compare(generated, reference, pairs=2)
    for garbage in GARBAGE:
        sides = [
            SetBatch(side.x.masked_fill(~side.mask[..., None], garbage), side.mask)
            for side in (generated, reference)
        ]
        assert compare(*sides, pairs=2) == expected
    longer = [
        SetBatch(
            torch.nn.functional.pad(side.x, (0, 0, 2, 9), value=7.0),
            torch.nn.functional.pad(side.mask, (2, 9)),
        )
        for side in (generated, reference)
    ]
    for name, result in compare(*longer, pairs=2).metrics.items():
        for key in ("value", "floor", "shuffled", "swapped"):
            assert getattr(result, key) == pytest.approx(
                getattr(expected.metrics[name], key), abs=1e-10
            )


def test_the_controls_are_worse_than_the_floor_where_there_are_correlations():
    reference = jets(n=2000, seed=2)
    got = compare(jets(n=1000, seed=1), reference, events=1000)
    mass = got.metrics["w1m"]
    assert abs(mass.value - mass.floor) < 5 * mass.floor_spread
    assert mass.shuffled > mass.floor + 5 * mass.floor_spread
    assert mass.swapped > mass.floor + 3 * mass.floor_spread
    assert got.metrics["w1p"].shuffled == got.metrics["w1p"].swapped == 0.0


def test_swapping_asks_for_the_multiplicity_before_the_cut():
    """Among jets cut to 3 particles all are equal; these are not, and each is alone."""
    x = jets(n=8, slots=12).x
    mask = torch.arange(12) < torch.arange(4, 12)[:, None]
    got = compare(SetBatch(x[:, :3], mask[:, :3]), SetBatch(x, mask), pairs=2)
    assert got.columns == 3
    assert all(result.swapped == 0.0 for result in got.metrics.values())
    assert got.metrics["w1m"].shuffled > 0


def test_the_seed_decides_floor_and_controls_but_not_values():
    sides = jets(seed=1), jets(n=200, seed=2)
    one, same, other = (compare(*sides, pairs=2, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.metrics["w1m"].value == other.metrics["w1m"].value
    assert one.metrics["w1m"].floor != other.metrics["w1m"].floor
    assert one.metrics["w1m"].shuffled != other.metrics["w1m"].shuffled


def test_the_table_says_what_was_compared():
    sides = jets(seed=1), jets(n=200, seed=2)
    text = text_of(compare(*sides, pairs=3).table())
    for part in (*(metric.title for metric in METRICS), "floor ± spread", "shuffled", "swapped"):
        assert part in text
    words = " ".join(text.split())
    assert "120 generated and 200 reference jets, seed 0" in words
    assert "compare all particles, up to 12 of a jet" in words
    assert "…" not in text
    exact = text_of(compare(*sides, events=50, pairs=3).table())
    assert "scaled" not in exact
    row = next(line for line in exact.splitlines() if line.startswith("W1M"))
    value = compare(*sides, events=50, pairs=3).metrics["w1m"].value
    assert float(row.split("pT")[1].split()[0]) == pytest.approx(1e3 * value, rel=0.02)


def test_the_report_on_the_floor_agrees_with_itself():
    """Halves of the reference are no parts as large as what is compared; the numbers add up."""
    words = " ".join(text_of(compare(jets(seed=1), jets(n=200, seed=2), pairs=3).table()).split())
    assert (
        "how the floor was taken: what two samples of the truth with 120 and 200 jets differ by, "
        "mean and spread; the reference has 200 jets and no two such parts, so they come from 3 "
        "pairs of random parts of the reference, no jet in both, its halves of 100, times 0.816, "
        "since such distances fall with the root of the number of jets"
    ) in words
    assert "scaled" not in words
    exact = text_of(compare(jets(seed=1), jets(n=200, seed=2), events=80, pairs=3).table())
    assert (
        "what two samples of the truth with 80 and 80 jets differ by, mean and spread of 3 pairs "
        "of random parts of the reference, no jet in both"
    ) in " ".join(exact.split())


def test_the_report_says_which_particles_and_which_rows_are_cut(files, tmp_path, no_pictures):
    report = evaluate(*files[:2], tmp_path / "report", pairs=2)
    words = " ".join(text_of(report.table()).split())
    said = (
        "all rows compare the 12 hardest particles of a jet, those with the largest ptrel: "
        "reference (of 20 slots) is cut to them, and every observable computed after the cut, the "
        "multiplicity too"
    )
    assert said in words
    assert read(tmp_path / "report")["cut"] == said


def test_a_floor_of_zero_is_a_floor():
    x = torch.full((6, 4, 3), 0.1)
    alike = SetBatch(x, torch.ones(6, 4))
    got = compare(alike, alike, pairs=2)
    assert {result.floor for result in got.metrics.values()} == {0.0}
    assert {result.verdict for result in got.metrics.values()} == {"at the floor"}
    other = compare(SetBatch(x + 0.1, torch.ones(6, 4)), alike, pairs=2)
    assert other.metrics["w1p"].verdict == "above the floor"


# --- refusals ---


def test_an_existing_report_is_replaced_only_when_asked(files, tmp_path, no_pictures):
    out = tmp_path / "report"
    first = evaluate(*files[:2], out, pairs=2, seed=1)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        evaluate(*files[:2], out, pairs=2, seed=2)
    assert read(out) == first.to_dict()
    (out / "old.png").write_bytes(b"")
    second = evaluate(*files[:2], out, pairs=2, seed=2, overwrite=True)
    assert read(out) == second.to_dict() != first.to_dict()
    assert not (out / "old.png").exists()


def test_a_report_that_fails_leaves_the_old_one_and_no_remains(files, tmp_path, monkeypatch):
    out = tmp_path / "report"
    with monkeypatch.context() as patch:
        patch.setattr(figures, "draw_jets", lambda *_, **__: {})
        evaluate(*files[:2], out, pairs=2)
    before = sorted(path.name for path in tmp_path.iterdir())

    class Broken(Figure):
        def savefig(self, *_, **__):
            raise KeyboardInterrupt

    drawn = {"whole": Figure(), "half": Broken()}
    monkeypatch.setattr(figures, "draw_jets", lambda *_, **__: drawn)
    for target in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            evaluate(*files[:2], target, pairs=2, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert list(read(out)["metrics"])


def make_foreign(folder, kind):
    if kind == "a file":
        folder.write_text("notes")
        return
    folder.mkdir()
    if kind == "a folder of data":
        (folder / "events.h5").write_bytes(b"years of work")
    elif kind == "a report and notes":
        (folder / METRICS_FILE).write_text("{}")
        (folder / "notes.txt").write_text("notes")
    elif kind == "a report and a folder":
        (folder / METRICS_FILE).write_text("{}")
        (folder / "more.png").mkdir()
    elif kind == "pictures":
        (folder / "mine.png").write_bytes(b"mine")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "kind",
    ["a file", "a folder of data", "a report and notes", "a report and a folder", "pictures"],
)
def test_what_is_no_report_is_never_touched(kind, overwrite, files, tmp_path, no_pictures):
    out = tmp_path / "mine"
    make_foreign(out, kind)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError):
        evaluate(*files[:2], out, pairs=2, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken_only_when_asked(files, tmp_path, no_pictures):
    out = tmp_path / "empty"
    out.mkdir()
    with pytest.raises(FileExistsError, match="exists"):
        evaluate(*files[:2], out, pairs=2)
    evaluate(*files[:2], out, pairs=2, overwrite=True)
    assert (out / METRICS_FILE).is_file()


def test_a_folder_that_appears_meanwhile_is_not_replaced(files, tmp_path, monkeypatch):
    out = tmp_path / "report"

    def slow(*_, **__):
        make_foreign(out, "a folder of data")
        return {}

    monkeypatch.setattr(figures, "draw_jets", slow)
    with pytest.raises(FileExistsError, match=r"holds no metrics\.json"):
        evaluate(*files[:2], out, pairs=2, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["events.h5"]


def test_a_missing_file_is_an_error_before_anything_is_written(files, tmp_path):
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "none.h5", files[1], tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"events": 0}, "events is 0"), ({"pairs": 1}, "pairs=1")],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        compare(jets(n=10), jets(n=10), **options)


def test_samples_that_cannot_be_compared_are_refused():
    usual, empty = jets(n=10), SetBatch(torch.zeros(10, 4, 3), torch.zeros(10, 4))
    broken = jets(n=10)
    broken.x[3, 1, 0], broken.mask[3, 1] = float("inf"), True
    for sides, match in (
        ((usual, empty), "W1 of etarel"),
        ((usual[:0], usual), "no jet"),
        ((broken, usual), "etarel is not finite in 1 of 10 jets"),
        ((SetBatch(usual.x[0], usual.mask[0]), usual), r"expected \(n, N\)"),
        ((usual, usual[:1]), "has 1 jets"),
    ):
        with pytest.raises(ValueError, match=match):
            compare(*sides, pairs=2)


# --- what cannot be ---


def test_values_that_cannot_be_are_counted_told_and_compared(files, tmp_path, no_pictures):
    generated, reference, model, truth = files
    clean = evaluate(generated, reference, tmp_path / "clean", pairs=2)
    assert clean.unphysical == {}
    x = model.x.clone()
    x[0, :, 2], x[1, 0, 2], x[2, 0, 0], x[3, :, 2] = -0.1, 70.0, 21.0, 0.0
    model.mask[:4] = True
    broken = SetBatch(x, model.mask)
    with JetWriter(tmp_path / "b.h5", objects=12, keep_unphysical=True) as writer:
        writer.write(broken, jet_features(broken.x, broken.mask))
    report = evaluate(tmp_path / "b.h5", reference, tmp_path / "out", pairs=2)
    assert report.unphysical == {"ptrel": 25, "etarel": 1}
    assert report.generated.events == len(model), "they are kept in the comparison"
    told = json.loads((tmp_path / "out" / METRICS_FILE).read_text())
    assert told["unphysical"] == report.unphysical
    assert report.notes == (
        "generated particles hold what cannot be: 1 value of etarel that is not from -20 to 20, "
        "25 values of ptrel that are not above 0 and at most 2; they are kept in the comparison",
    )
    assert all(math.isfinite(result.value) for result in report.metrics.values())
    assert report.metrics["w1p_ptrel"].value > 2 * clean.metrics["w1p_ptrel"].value
    assert compare(broken, truth, pairs=2).unphysical == report.unphysical
    assert compare(broken, truth, pairs=2, events=1).unphysical == {"ptrel": 12}


def test_a_reference_that_cannot_be_is_refused(files, tmp_path, no_pictures):
    generated, reference, *_ = files
    with h5py.File(reference, "r+") as file:
        file["particle_features"][5, 0] = [0.1, 0.1, 0.0, 1.0]
        file["jet_features"][5, 3] = file["particle_features"][5, :, 3].sum()
    with pytest.raises(ValueError, match="row 5, particle 0, column 'ptrel' holds 0, expected abo"):
        evaluate(generated, reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- how many objects are compared ---

POINTS = Schema([Feature("x"), Feature("y")])


def write_points(path, least, most, seed, *, slots=None, **attributes):
    """Sets of as many points, uniformly, in slots or one behind the other."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(least, most + 1, (200, 1), generator=generator)
    x = torch.randn(200, most, 2, generator=generator)
    with EventWriter(path, POINTS, objects=slots, attributes=attributes) as writer:
        writer.write(SetBatch(x, torch.arange(most) < count))
    return count.double()


@pytest.mark.parametrize("slots", [(None, None), (12, 8), (12, None)])
def test_events_that_nothing_has_cut_are_compared_whole(slots, tmp_path, no_pictures):
    """The number of slots that the longest event needs is no cut: W1 multiplicity was 0.6."""
    made = write_points(tmp_path / "a.h5", 5, 12, 1, slots=slots[0])
    true = write_points(tmp_path / "b.h5", 5, 8, 2, slots=slots[1])
    report = evaluate(tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "r", measures=("w1",))
    expected = (made.flatten().sort().values - true.flatten().sort().values).abs().mean()
    assert report.metrics["w1_multiplicity"].value == pytest.approx(float(expected))
    assert report.columns == 12
    assert not any("room for" in note for note in report.notes)


def test_what_a_model_cannot_make_is_cut_away_from_the_reference(tmp_path, no_pictures):
    write_points(tmp_path / "a.h5", 5, 8, 1, weights_sha256="0" * 64)
    write_points(tmp_path / "b.h5", 5, 12, 2)
    report = evaluate(tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "r", measures=("w1",))
    assert report.columns == 8


def test_generated_events_that_are_cut_are_counted(tmp_path, no_pictures):
    jet_files = [tmp_path / name for name in ("long.h5", "short.h5")]
    for path, sample in zip(jet_files, (jets(slots=12), jets(slots=8, seed=1)), strict=True):
        write(path, sample)
    report = evaluate(*jet_files, tmp_path / "r", measures=("w1",))
    long = int((jets(slots=12).lengths > 8).sum())
    assert long > 0
    (note,) = (note for note in report.notes if "room for" in note)
    assert note.startswith(
        f"{long} of 120 generated jets have more than the 8 particles that a jet"
    )


def test_events_that_the_floor_alone_needs_are_gone_before_the_controls(tmp_path, monkeypatch):
    """A reference takes twice the memory of what is compared, and controls take as much again."""
    generated = write(tmp_path / "generated.h5", jets(90, seed=1))
    reference = write(tmp_path / "reference.h5", jets(200, seed=2))
    held, measured = [], measuring._w1_of_control

    def of_control(*arguments):
        held.append({len(one) for one in gc.get_objects() if type(one) is SetBatch})
        return measured(*arguments)

    monkeypatch.setattr(measuring, "_w1_of_control", of_control)
    gc.collect()
    evaluate(generated, reference, tmp_path / "report", events=60, measures=("w1",), pairs=2)
    assert [120 in sizes for sizes in held] == [False, False]
    assert all(60 in sizes for sizes in held)


def test_what_some_types_lack_is_not_compared_and_said(tmp_path):
    """Its 0 would be compared as a value."""
    schema = Schema(
        [
            Feature("pt", "GeV", "positive"),
            Feature("mass", "GeV", "positive", absent=["muon"]),
            Feature("kind", kind="category(jet, muon)"),
        ]
    )
    kind = (torch.arange(480).reshape(160, 3) % 2).float()
    for seed in (0, 1):
        pt = 20 + torch.rand(160, 3, generator=torch.Generator().manual_seed(seed))
        with EventWriter(tmp_path / f"{seed}.h5", schema) as writer:
            writer.write(SetBatch(torch.stack([pt, torch.where(kind == 0, pt / 2, 0), kind], -1)))
    with pytest.warns(UserWarning, match="mass are not compared: some types of objects lack them"):
        made = evaluate(tmp_path / "0.h5", tmp_path / "1.h5", tmp_path / "page")
    assert any("pt" in name for name in made.metrics)
    assert not [name for name in made.metrics if "mass" in name or "kind" in name]
