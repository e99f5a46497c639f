"""Conditional models by the shell: trained on classes, sampled, scored, evaluated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import CONFIG, UNPHYSICAL, fails, run, write_jets
from each import each
from setflow.data import JetWriter
from setflow.data.contexts import context_texts
from setflow.schema import RELATIVE_JET_UNITS, Feature
from setflow.sets.batch import SetBatch
from setflow.training import SetDataModule

CLASSES = ("top", "gluon", "quark")
pytestmark = UNPHYSICAL


def write_class(path, label, *, jets=60, seed=0):
    """Jets of a class, with a column that JetNet does not know."""
    write_jets(path, jets=jets, seed=10 * CLASSES.index(label) + seed)
    with h5py.File(path, "r+") as file:
        jet = file["jet_features"][:]
        tau = 0.2 + 0.3 * CLASSES.index(label) + 0.1 * np.random.default_rng(seed).random(jets)
        del file["jet_features"]
        file["jet_features"] = np.column_stack([tau, jet]).astype("f4")
        file["jet_features"].attrs["features"] = ["tau", "pt", "eta", "mass", "num_particles"]
        file["jet_features"].attrs["units"] = ["cm", "GeV", "", "GeV", ""]


def configuration(*conditions, train, **parts):
    config = json.loads(json.dumps(CONFIG))
    config["name"] = "classes"
    flow = config["model"]["flow"]["init_args"]
    flow["conditions"] = list(conditions)
    flow |= parts
    config["data"]["train"] = train
    Path("classes.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return config


TRAIN = {"top": ["top-a.h5", "top-b.h5"], "gluon": "g/*.h5", "quark": "quark.h5"}


def write_classes():
    Path("g").mkdir()
    write_class("top-a.h5", "top", jets=40)
    write_class("top-b.h5", "top", jets=40, seed=1)
    write_class("g/1.h5", "gluon", jets=50)
    write_class("g/2.h5", "gluon", jets=30, seed=1)
    write_class("quark.h5", "quark", jets=80)


@pytest.fixture
def trained(folder):
    """A model of three classes and pT; the width of its field is left to the conditions."""
    write_classes()
    cardinality = {
        "class_path": "setflow.ConditionalCardinality",
        "init_args": {"max_objects": 8},
    }
    configuration("pt", "class", train=TRAIN, cardinality=cardinality)
    run("fit", "--config", "classes.yaml")
    return folder / "runs" / "classes" / "model"


def contexts(path):
    with h5py.File(path) as file:
        dataset = file["context"]
        told = [list(dataset.attrs[name]) for name in ("features", "units", "kinds")]
        return dataset[:], told


SHORT = ("--steps", "2")


@pytest.mark.usefixtures("no_pictures")
def test_three_classes_are_trained_sampled_scored_and_evaluated(trained, capsys):
    flow = setflow.SetFlow.load(trained)
    assert flow.schema.of_event("class").kind.names == CLASSES
    assert flow.field.condition_dim == 4
    run("sample", trained, "--out", "s.h5", "--condition", "pt=1020,class=top:7,gluon:5", *SHORT)
    values, told = contexts("s.h5")
    assert told == [["pt", "class"], ["GeV", ""], ["real", "category(top, gluon, quark)"]]
    assert values[:, 0].tolist() == [1020] * 12
    assert values[:, 1].tolist() == [0] * 7 + [1] * 5
    expected = flow.sample(
        12, {"pt": 1020, "class": ["top"] * 7 + ["gluon"] * 5}, solver=setflow.Midpoint(2)
    )
    with h5py.File("s.h5") as file:
        assert file.attrs["condition"] == "pt=1020,class=top:7,gluon:5"
        mask = file["particle_features"][..., 3] == 1
        x = file["particle_features"][..., :3][mask]
    assert np.array_equal(mask, expected.mask.numpy())
    np.testing.assert_allclose(x, expected.x[expected.mask].numpy(), atol=1e-5)

    run("score", trained, "s.h5", "--out", "scores.h5", *SHORT)
    assert "12 of 12 rows" in capsys.readouterr().out
    with h5py.File("scores.h5") as file:
        log_p = file["log_prob"][:]
    again = flow.log_prob(expected, solver=setflow.RK4(2))
    np.testing.assert_allclose(log_p, again.detach(), rtol=1e-3, atol=1e-2)

    run("sample", trained, "--out", "like.h5", "--like", "s.h5", *SHORT)
    assert np.array_equal(contexts("like.h5")[0], values)
    with h5py.File("like.h5") as file:
        assert np.array_equal(file["particle_features"][..., 3].sum(1), mask.sum(1))
    run("sample", trained, "--out", "many.h5", "--condition", "pt=1020,class=top:60,quark:60",
        *SHORT)  # fmt: skip
    run("evaluate", "many.h5", "quark.h5", "--fast", "--out", "report")
    assert Path("report/metrics.json").is_file()
    run("info", trained)
    out = capsys.readouterr().out
    assert "pt [GeV], class (top, gluon, quark)" in out
    assert "--condition pt=1020,class=top:1000,gluon:1000,quark:1000" in out


def test_two_stages_are_trained_and_sampled_without_a_file(folder, capsys):
    write_classes()
    field = {"class_path": "setflow.TransformerField",
             "init_args": {"dim": 1, "hidden": 8, "layers": 1}}  # fmt: skip
    model = {"class_path": "setflow.SetFlow", "init_args": {"field": field}}
    cardinality = {"class_path": "setflow.ConditionalCardinality", "init_args": {"max_objects": 8}}
    configuration(
        "pt", "class", train=TRAIN, cardinality=cardinality, context_model=model, drop_context=0.2
    )
    run("fit", "--config", "classes.yaml")
    trained = folder / "runs" / "classes" / "model"
    flow = setflow.SetFlow.load(trained)
    assert flow.context_model.features == ("pt",)
    assert flow.context_model.conditions == ("class",)
    assert flow.context_model.field.condition_dim == 3
    assert flow.drop_context == 0.2
    assert "context" in (trained / "README.md").read_text()
    capsys.readouterr()
    run("info", trained)
    out = capsys.readouterr().out
    assert "made first      pt, by a model of their own" in out
    assert "--condition class=top:1000,gluon:1000,quark:1000" in out
    run("sample", trained, "--out", "s.h5", "--condition", "class=gluon:5,top:7", *SHORT)
    values, told = contexts("s.h5")
    assert told[0] == ["pt", "class"]
    assert values[:, 1].tolist() == [1] * 5 + [0] * 7
    assert len(set(values[:, 0].tolist())) == 12
    expected = flow.sample(12, {"class": ["gluon"] * 5 + ["top"] * 7}, solver=setflow.Midpoint(2))
    np.testing.assert_allclose(values[:, 0], expected.c[:, 0].numpy(), rtol=1e-5)
    guided = flow.sample(
        12, {"class": ["gluon"] * 5 + ["top"] * 7}, solver=setflow.Midpoint(2),
        guidance=torch.tensor([1.0] * 5 + [3.0] * 7),
    )  # fmt: skip
    run("sample", trained, "--out", "g.h5", "--condition", "class=gluon:5,top:7",
        "--guidance", "top:3", *SHORT)  # fmt: skip
    with h5py.File("g.h5") as file, h5py.File("s.h5") as plain:
        assert file.attrs["guidance"] == "top:3"
        assert file.attrs["evaluations"] == 2 * plain.attrs["evaluations"]
        x, before = file["particle_features"][..., :3], plain["particle_features"][..., :3]
    np.testing.assert_allclose(x[:, : guided.x.shape[1]], guided.x.numpy(), atol=1e-5)
    assert np.array_equal(x[:5], before[:5])
    assert not np.array_equal(x[5:], before[5:])
    error = fails(capsys, "sample", trained, "--out", "t.h5", "--condition", "class=gluon:5",
                  "--guidance", "glun:3")  # fmt: skip
    assert "did you mean 'gluon'" in error
    assert "lacks class" in fails(
        capsys, "sample", trained, "--out", "t.h5", "--condition", "pt=1020", "--events", "3"
    )


def test_the_card_lists_all_files(trained):
    facts = json.loads((trained / "manifest.json").read_text())["training"]["train"]
    names = [(entry["class"], entry["file"]) for entry in facts["files"]]
    assert names == [
        ("top", "top-a.h5"), ("top", "top-b.h5"), ("gluon", "1.h5"), ("gluon", "2.h5"),
        ("quark", "quark.h5"),
    ]  # fmt: skip
    assert all(len(entry["sha256"]) == 64 for entry in facts["files"])
    card = (trained / "README.md").read_text()
    assert "of 5 files: top: `top-a.h5`" in card


def test_data_without_classes_are_scored_as_one(trained, capsys):
    message = fails(capsys, "score", trained, "quark.h5", "--out", "x.h5")
    assert "no column 'class'" in message
    assert "--condition class=VALUE" in message
    rows = {}
    for label in ("top", "quark"):
        out = f"{label}-scores.h5"
        run("score", trained, "quark.h5", "--out", out, "--condition", f"class={label}",
            "--events", "4", *SHORT)  # fmt: skip
        with h5py.File(out) as file:
            assert file.attrs["condition"] == f"class={label}"
            rows[label] = file["log_prob"][:]
    assert np.isfinite(rows["top"]).all()
    assert (rows["top"] != rows["quark"]).any()
    message = fails(capsys, "score", trained, "quark.h5", "--out", "x.h5",
                    "--condition", "class=qark")  # fmt: skip
    assert "there is no 'qark' among top, gluon, quark; did you mean 'quark'?" in message
    message = fails(capsys, "score", trained, "quark.h5", "--out", "x.h5",
                    "--condition", "class=top:4")  # fmt: skip
    assert "'class' is class=top:4, expected one value for all rows" in message


def test_a_file_that_does_not_tell_the_class_is_told_what_else_there_is(trained, capsys):
    for option in ("--like", "--context-from"):
        message = fails(capsys, "sample", trained, option, "quark.h5", "--out", "x.h5")
        assert "no column 'class'" in message
        assert "give a file that tells it, or the contexts by --condition, such as cl" in message


def test_context_from_and_oversample(trained):
    run("sample", trained, "--out", "s.h5", "--condition", "pt=1020,class=top:2,quark:2", *SHORT)
    options = ("--context-from", "s.h5", *SHORT)
    run("sample", trained, "--out", "three.h5", *options, "--oversample", "3")
    values, rows = contexts("three.h5")[0], contexts("s.h5")[0]
    assert np.array_equal(values, rows.repeat(3, axis=0))
    run("sample", trained, "--out", "first.h5", *options, "--oversample", "3", "--events", "7")
    run("sample", trained, "--out", "plain.h5", *options)
    with h5py.File("three.h5") as file:
        whole = file["particle_features"][:]
        assert file.attrs["oversample"] == 3
        assert file.attrs["context_from"] == "s.h5"
    with h5py.File("first.h5") as file:
        assert np.array_equal(file["particle_features"][:], whole[:7])
    with h5py.File("plain.h5") as file:  # the first event of each: same seed, index and context
        assert np.array_equal(file["particle_features"][0], whole[0])
    run("sample", trained, "--out", "like.h5", "--like", "s.h5", "--oversample", "2", *SHORT)
    with h5py.File("like.h5") as file, h5py.File("s.h5") as rows:
        numbers = [part["particle_features"][..., 3].sum(1) for part in (file, rows)]
    assert np.array_equal(numbers[0], numbers[1].repeat(2))


@each(
    ("options", "message"),
    [
        ("--events 3", "conditioned on pt, class; say .* --condition pt=1020,class=top:1000.* "
         "--like FILE.* --context-from FILE"),
        ("--condition pt=1020,class=top", "one context for all events; say how many by --events"),
        ("--condition pt=1020,class=top --like quark.h5", "--condition and --like tell"),
        ("--like quark.h5 --context-from quark.h5", "--like and --context-from tell the context"),
        ("--condition pt=1020,class=top:5,gluon:5 --events 11", "are 10 jets, and events is 11"),
        ("--condition pt=1020 --events 3", "the context lacks class"),
        ("--condition pt=1020,clas=top --events 3", "lacks class and has clas.*mean 'class'"),
        ("--condition pt=1020,class=tpo --events 3", "no 'tpo' among top.* did you mean 'top'"),
        ("--condition pt=fast,class=top --events 3", "'pt' is 'fast', expected a number of GeV"),
        ("--condition pt=1020,class=top:2,gluon", "cannot be read at 'gluon'"),
        ("--condition pt=1020,class=top:x", "'x' is no whole number"),
        ("--condition pt=1020,pt=3", "has pt twice"),
        ("--condition pt=1020,class=top:0", "0 times, expected a whole number of at least 1"),
        ("--condition pt=1020:2,class=top:3", "pt and class both have a number of events"),
        ("--condition pt=1020,class=top --events 4 --oversample 2", "out, or raise --events to 8"),
        ("--condition pt=1020,class=top --oversample 2", "out and say how many by --events"),
        ("--events 4 --oversample 2", "--oversample 2 makes so many"),
        ("--context-from quark.h5", "no column 'class'"),
        ("--condition pt=-5,class=top --events 2", "'pt' is -5, expected a number of GeV above 0"),
        ("--condition pt=nan,class=top --events 2", "'pt' is nan, expected a finite number"),
        ("--condition pt=900:2,0:2,class=top", "'pt' is 0, expected a number of GeV above 0"),
    ],
)  # fmt: skip
def check_refusals(options, message, trained, capsys):
    said = fails(capsys, "sample", trained, "--out", "no.h5", *options.split())
    assert re.search(message, said), said
    assert not Path("no.h5").exists()


def test_what_contradicts_itself_is_refused_with_the_options(trained, capsys):
    check_refusals(trained=trained, capsys=capsys)


@pytest.mark.filterwarnings("always::setflow.model.OutsideTrainingWarning")
def test_a_context_outside_the_training_is_told_once(trained, capsys):
    run("sample", trained, "--out", "far.h5", "--condition", "pt=5000,class=top", "--events",
        "2050", "--steps", "1")  # fmt: skip
    err = capsys.readouterr().err
    assert err.count("outside the range of the training") == 1
    assert "'pt' of 2,050 of 2,050 events" in err
    assert "1000.06 to 1049.9 GeV, where the model has learnt nothing: it is 5000 in event 0" in err
    run("sample", trained, "--out", "in.h5", "--condition", "pt=1020,class=top", "--events", "1")
    assert "outside" not in capsys.readouterr().err


@pytest.mark.filterwarnings("always::setflow.model.OutsideTrainingWarning")
def test_scores_tell_of_contexts_outside_the_training_too(trained, capsys):
    score = ("score", trained, "quark.h5", *SHORT, "--events", 5, "--out", "a.h5")
    run(*score, "--condition", "pt=5000,class=top")
    err = capsys.readouterr().err
    assert err.count("'pt' of 5 of 5 events lies outside the range of the training") == 1
    said = fails(capsys, *score, "--force", "--condition", "pt=-1,class=top")
    assert "condition 'pt' is -1, expected a number of GeV above 0" in said
    run(*score, "--force", "--condition", "class=quark")
    assert "outside" not in capsys.readouterr().err


# --- training ---


def test_any_column_is_a_condition_in_the_unit_of_the_file(folder, capsys):
    write_class("a.h5", "top")
    write_class("b.h5", "gluon")
    configuration("mass", "tau", train=["a.h5", "b.h5"])
    run("fit", "--config", "classes.yaml")
    flow = setflow.SetFlow.load("runs/classes/model")
    assert [entry.unit for entry in flow.context_features] == ["GeV", "cm"]
    assert 0.2 <= flow.context_encoder.low[1] < 0.3
    assert 0.5 <= flow.context_encoder.high[1] < 0.6
    assert "--condition mass=49.8,tau=0.4 --events 1000" in capsys.readouterr().out


@each(
    ("change", "message"),
    [
        (lambda c: c["data"].update(train={"top": "top-a.h5"}, val="quark.h5"), "one of data"),
        (lambda c: c["data"].update(val={"tpo": "quark.h5"}), "no 'tpo' among .* mean 'top'"),
        (lambda c: c["data"].update(train={"top": "no*.h5"}), "data.train.top: no file matches no"),
        (lambda c: c["data"].update(train={"top": "top-a.h5", "gluon": "top-a.h5"}), "twice, f"),
        (lambda c: c["data"].update(train=[]), "names no file"),
        (lambda c: c["data"].update(val={"top": "top-a.h5"}), "top-a.h5 is the training file"),
        (lambda c: c["model"]["flow"]["init_args"].update(conditions=["pt"]),
         "has the classes top, gluon, quark, but the model is not conditioned on 'class'; add it"),
        (lambda c: c["model"]["flow"]["init_args"]["field"]["init_args"].update(condition_dim=3),
         "condition_dim=3, .*which make 4 columns: pt, class=top, class=gluon, class=quark; build"),
        (lambda c: c["data"].update(train="quark.h5"),
         r"quark.h5 has no column 'class', .*data.train: \{top: a.h5, gluon: b.h5\}"),
        (lambda c: (c["data"].update(train="quark.h5"), c["model"]["flow"]["init_args"].update(
            schema={"event": [{"name": "class", "kind": "category(top, gluon)"}]})),
         r"quark.h5 has no column 'class', .*data.train: \{top: a.h5, gluon: b.h5\}"),
        (lambda c: c["model"]["flow"]["init_args"].update(conditions=["pt", "class", "tua"]),
         "no column 'tua'.*'tau'"),
        (lambda c: c["model"]["flow"]["init_args"].update(
            schema={"event": [{"name": "class", "kind": "category(top, gluon)"}]}),
         "no 'quark' among top, gluon"),
    ],
)  # fmt: skip
def check_configurations(change, message, capsys):
    config = configuration("pt", "class", train=TRAIN)
    change(config)
    Path("classes.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    said = fails(capsys, "fit", "--config", "classes.yaml")
    assert re.search(message, said), said


def test_files_and_conditions_that_do_not_fit_are_refused(folder, capsys):
    write_classes()
    check_configurations(capsys=capsys)


def test_training_goes_on_with_the_classes_of_the_model(trained, capsys):
    """Whatever the order of the files; another order of names would be another model."""
    run("fit", "--config", "classes.yaml", "--init", trained, "--name", "again",
        "--trainer.max_epochs", "1")  # fmt: skip
    again = setflow.SetFlow.load("runs/again/model")
    assert again.context_features == setflow.SetFlow.load(trained).context_features
    turned = {name: TRAIN[name] for name in reversed(CLASSES)}
    config = yaml.safe_load(Path("classes.yaml").read_text())
    config["data"]["train"] = turned
    Path("turned.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    message = fails(capsys, "fit", "--config", "turned.yaml", "--init", trained, "--name", "turned")
    assert "categories.class is 'category(top, gluon, quark)' there" in message


def test_the_context_of_a_file_is_read_by_its_names(folder):
    """Whatever the order of columns, of names, and the unit; it counts before the events' own."""
    held = [Feature("class", kind="category(quark, gluon, top)"), Feature("pt", "GeV")]
    codes = torch.tensor([2.0, 0.0, 2.0, 0.0])
    with JetWriter("made.h5", objects=3, context=held, jet_units=RELATIVE_JET_UNITS) as writer:
        batch = SetBatch(torch.full((4, 3, 3), 0.2))
        writer.write(
            batch, torch.tensor([[1.0, 0, 0.5, 3]] * 4),
            context=torch.stack([codes, torch.tensor([1e3, 1.1e3, 1.2e3, 1.3e3])], -1),
        )  # fmt: skip
    event = [{"name": "pt", "unit": "GeV"}, {"name": "class", "kind": "category(top, quark)"}]
    data = SetDataModule(
        "made.h5", val_fraction=0.5, conditions=["pt", "class"], schema={"event": event}
    )
    everything = torch.cat([data.train_events.c, data._val.c])
    assert everything[everything[:, 0].argsort()].tolist() == [
        [1000, 0], [1100, 1], [1200, 0], [1300, 1]
    ]  # fmt: skip
    event[1]["kind"] = "category(top, gluon)"
    data = SetDataModule("made.h5", conditions=["pt", "class"], schema={"event": event})
    with pytest.raises(ValueError, match="context: class: there is no 'quark' among top, gluon"):
        data.setup("fit")


def test_a_training_takes_what_a_context_says_of_its_conditions(folder):
    """Kinds and units come from the file where the configuration does not tell."""
    held = [Feature("class", kind="category(quark, top)"), Feature("pt", "GeV")]
    write_jets(Path("jets.h5"))
    with h5py.File("jets.h5", "r+") as file:
        file["context"] = np.column_stack([np.arange(200) % 2, np.linspace(1000, 1100, 200)])
        for name, texts in context_texts(held).items():
            file["context"].attrs[name] = np.array(texts, dtype=h5py.string_dtype())
    configuration("class", "pt", train="jets.h5")
    run("fit", "--config", "classes.yaml", "--trainer.max_epochs", "1")
    flow = setflow.SetFlow.load("runs/classes/model")
    assert flow.context_columns == ("class=quark", "class=top", "pt")
    assert flow.context_encoder.high[1] == 1100


def test_a_named_schema_takes_the_classes_of_the_files_without_a_word(folder, capsys):
    write_classes()
    configuration("pt", "class", train=TRAIN, schema="jetnet", scaler=None)
    run("fit", "--config", "classes.yaml")
    assert "serialize" not in capsys.readouterr().err
    flow = setflow.SetFlow.load("runs/classes/model")
    assert str(flow.context_features[1].kind) == "category(top, gluon, quark)"
