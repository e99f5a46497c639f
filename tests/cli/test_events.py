"""Every command works on sets that are no jets: rings with six features, by the shell alone."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import setflow
from cli.shell import CONFIG, fails, run
from data.rings import RINGS, make_rings, store, write_rings
from setflow.data import read_events, read_header
from setflow.schema import Schema

SIX = RINGS.generated


def configuration(**flow):
    config = json.loads(json.dumps(CONFIG))
    arguments = config["model"]["flow"]["init_args"]
    arguments["field"]["init_args"]["dim"] = 6
    for name in ("scaler", "schema", "features"):
        arguments.pop(name, None)
    arguments.update(flow)
    config["data"]["train"] = "rings.h5"
    return config


@pytest.fixture
def rings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)  # the command line runs with torch's own default
    write_rings(Path("rings.h5"), n=200)
    write_rings(Path("true.h5"), n=120, seed=1, objects=None)
    Path("config.yaml").write_text(yaml.safe_dump(configuration()))
    return tmp_path


def test_rings_go_from_fit_to_evaluate(rings, capsys):
    run("info", "rings.h5")
    out = " ".join(capsys.readouterr().out.split())
    assert "200 events, in the layout of setflow, version 2: objects, mask, context" in out
    assert "left out side: read when asked for, as a model with types does" in out
    assert "side left" in out
    assert "next: setflow fit --config CONFIG.yaml --data.train rings.h5 --name NAME" in out

    run("fit", "--config", "config.yaml")
    out, err = capsys.readouterr()
    told = " ".join(err.split())
    assert told.count("does not generate yet: side (category(left, right))") == 1
    model = "runs/tiny/model"
    flow = setflow.SetFlow.load(model)
    assert flow.features == SIX
    assert flow.schema == RINGS
    assert flow.field.angles == (5,)  # told by the schema of the file
    assert [str(kind) for kind in flow.scaler.kinds] == [
        "real", "real", "positive", "bounded(0.0, 1.0)", "real", "angle",
    ]  # fmt: skip
    x, mask, _ = make_rings(200)
    assert flow.scaler.mean[0].item() == pytest.approx(x[mask][:, 0].mean(), abs=1.0)
    assert "--out runs/tiny/events.h5" in out
    run("info", model)
    out = " ".join(capsys.readouterr().out.split())
    assert " events for training: `rings.h5`" in out
    assert "next: setflow sample runs/tiny/model --events 10000 --out events.h5" in out

    run("sample", model, "--events", 150, "--steps", 2, "--out", "new.h5")
    assert "150 events" in capsys.readouterr().out
    header = read_header("new.h5")
    assert (header.layout_version, header.features) == (2, SIX)
    assert header.schema == Schema(RINGS.objects[:6], order_by="energy")
    assert header.attributes["seed"] == 0
    assert len(header.attributes["weights_sha256"]) == 64
    made = read_events("new.h5")
    same = flow.sample(150, seed=0, solver=setflow.Midpoint(2))
    assert torch.equal(made.objects.lengths, same.lengths)
    torch.testing.assert_close(made.objects.x[made.objects.mask], same.x[same.mask])
    energy, phi = made.objects.x[made.objects.mask][:, [2, 5]].unbind(-1)
    assert bool((energy > 0).all())
    assert bool((phi.abs() <= np.pi).all())

    for data in ("true.h5", "new.h5"):
        run("score", model, data, "--events", 9, "--steps", 2, "--out", f"scores-{data}")
        capsys.readouterr()
        with h5py.File(f"scores-{data}") as file:
            assert np.isfinite(file["log_prob"][:]).all()
            assert (
                "x [mm], y [mm], energy [GeV], share, time [ns], phi [rad] of every object"
                in (file["log_prob"].attrs["meaning"])
            )
    run("info", "scores-true.h5")
    out = " ".join(capsys.readouterr().out.split())
    assert "log-densities of 9 events" in out
    assert "log p of an event" in out

    run("evaluate", "new.h5", "true.h5", "--fast", "--out", "report")
    told = json.loads(Path("report/metrics.json").read_text())
    assert list(told["metrics"]) == [
        *(f"w1_{name}" for name in SIX), "w1_joint", "w1_multiplicity", "w1_pairs",
    ]  # fmt: skip
    assert told["metrics"]["w1_x"]["unit"] == "mm"
    assert all(result["floor"] > 0 for result in told["metrics"].values())
    assert told["metrics"]["w1_x"]["shuffled"] == pytest.approx(0, abs=1e-9)
    assert told["compared"] == "events"
    assert {*told["pictures"]} == {
        *(f"{name}.png" for name in SIX),
        "multiplicity.png", "pair_distance.png", "example_events.png",
    }  # fmt: skip
    assert all((Path("report") / name).is_file() for name in told["pictures"])
    table = capsys.readouterr().out
    assert "150 generated and 120 reference events" in table
    assert "jet" not in table
    run("info", "report")
    run("info", "new.h5")
    out = " ".join(capsys.readouterr().out.split())
    assert "150 events that a model has sampled" in out
    assert "150 of 150 events" in out


@pytest.mark.filterwarnings("ignore:condition 'radius' of")  # of the training sample's range
def test_a_conditional_model_keeps_its_contexts_in_the_file(rings, capsys):
    field = configuration()["model"]["flow"]["init_args"]["field"]
    field["init_args"]["condition_dim"] = 1
    Path("config.yaml").write_text(
        yaml.safe_dump(configuration(conditions=["radius"], field=field))
    )
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    run("sample", "runs/tiny/model", "--like", "true.h5", "--steps", 1, "--out", "new.h5")
    true, made = read_events("true.h5"), read_events("new.h5")
    assert torch.equal(made.context(["radius"]), true.context(["radius"]))
    assert torch.equal(made.objects.lengths, true.objects.lengths)
    run("score", "runs/tiny/model", "new.h5", "--events", 5, "--steps", 1, "--out", "s.h5")
    assert "5 of 5 rows" in capsys.readouterr().out


def test_both_forms_of_a_file_and_any_order_give_the_same_model(rings):
    x, mask, event = make_rings(200)
    order = (4, 6, 0, 2, 5, 1, 3)
    told = {
        "objects": {
            "features": [RINGS.objects[k].name for k in order],
            "units": [RINGS.objects[k].unit for k in order],
        }
    }
    contents = {"objects": x[..., order].astype(">f8"), "mask": mask, "context": event}
    store(Path("other.h5"), contents, told, {"schema": json.dumps(RINGS.node())})
    write_rings(Path("behind.h5"), n=200, objects=None)
    for name in ("rings", "other", "behind"):
        run("fit", "--config", "config.yaml", "--name", name, "--data.train", f"{name}.h5",
            "--trainer.max_epochs", 1)  # fmt: skip
    one, *others = (
        setflow.SetFlow.load(f"runs/{name}/model").state_dict()
        for name in ("rings", "other", "behind")
    )
    for other in others:
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5)


def test_a_file_without_a_schema_is_read_by_that_of_the_configuration(rings, capsys):
    x, mask, _ = make_rings(200)
    names = [feature.name for feature in RINGS.objects[:6]]
    contents = {"objects": x[..., :6], "mask": mask}
    store(Path("plain.h5"), contents, {"objects": {"features": names}})
    schema = Schema(RINGS.objects[:6], order_by="energy").node()
    Path("config.yaml").write_text(yaml.safe_dump(configuration(schema=schema)))
    run("fit", "--config", "config.yaml", "--data.train", "plain.h5")
    assert setflow.SetFlow.load("runs/tiny/model").schema == Schema.from_node(schema)
    schema["objects"][1]["name"] = "z"
    Path("config.yaml").write_text(yaml.safe_dump(configuration(schema=schema)))
    again = ("fit", "--config", "config.yaml", "--name", "never", "--data.train", "plain.h5")
    assert "no feature 'z', which the schema of the model names" in fails(capsys, *again)
    assert not Path("runs/never").exists()


def test_a_model_of_jets_told_to_train_on_rings_says_what_to_do(rings, capsys):
    Path("config.yaml").write_text(yaml.safe_dump(configuration(schema="jetnet")))
    told = fails(capsys, "fit", "--config", "config.yaml")
    assert "rings.h5 has no feature 'etarel', which the schema of the model names" in told
    node = yaml.safe_load(told.partition("or write ")[2])["schema"]  # which can be copied
    assert Schema.from_node(node) == RINGS
    assert told == fails(capsys, "info", "config.yaml")


def test_a_configuration_is_told_as_it_is_trained(rings, capsys):
    """What the file says of a model that names no schema, and of the columns of its context."""
    cardinality = {"class_path": "setflow.ConditionalCardinality", "init_args": {"max_objects": 8}}
    conditions = ["radius", "noise"]
    config = configuration(conditions=conditions, cardinality=cardinality)
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("info", "config.yaml")
    out = " ".join(capsys.readouterr().out.split())
    assert "features x, y, energy, share, time, phi angle phi, on a circle" in out
    assert "conditions radius, noise" in out
    run("fit", "--config", "config.yaml")
    flow = setflow.SetFlow.load("runs/tiny/model")
    assert flow.cardinality.condition_dim == len(flow.context_columns) == 3
    Path("rings.h5").rename("gone.h5")
    told = fails(capsys, "info", "config.yaml")
    assert "the training file rings.h5, which may tell what is missing, does not exist" in told
    Path("gone.h5").rename("rings.h5")
    config = configuration(schema=RINGS.node(), cardinality=cardinality)
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert "without conditions takes setflow.EmpiricalC" in fails(capsys, "info", "config.yaml")


@pytest.mark.usefixtures("no_pictures")
def test_the_layout_is_chosen(rings, capsys):
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", 1)
    sample = ("sample", "runs/tiny/model", "--events", 5, "--steps", 1, "--out")
    told = fails(capsys, *sample, "a.h5", "--layout", 1)
    assert "makes x, y, energy, share, time, phi, and layout 1, JetNet's, holds etarel" in told
    assert "take layout 2" in told
    assert not Path("a.h5").exists()
    fails(capsys, *sample, "a.h5", "--layout", 3)
    run(*sample, "a.h5", "--layout", 2)
    scaler = setflow.data.Standardizer(3, mean=[0, 0, -3.0], std=[0.1, 0.1, 0.5],
                                       kinds=["real", "real", "positive"])  # fmt: skip
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    counts = setflow.EmpiricalCardinality(counts=[0, 0, 1, 1])
    setflow.SetFlow(field, scaler=scaler, cardinality=counts).save("jets")
    for layout in (1, 2):
        run("sample", "jets", "--events", 50, "--steps", 2, "--out", f"{layout}.h5",
            "--layout", layout)  # fmt: skip
        assert read_header(f"{layout}.h5").layout_version == layout
    one, two = (read_events(f"{layout}.h5") for layout in (1, 2))
    assert one.objects == two.objects
    run("evaluate", "2.h5", "1.h5", "--fast", "--out", "report")
    assert "w1m" in json.loads(Path("report/metrics.json").read_text())["metrics"]


@pytest.mark.parametrize(("column", "value", "told"), [
    (2, -1.0, "'energy' holds -1, expected above 0"),
    (3, 1.5, "'share' holds 1.5, expected between 0 and 1"),
    (0, np.nan, "'x' holds nan though the object is real"),
])  # fmt: skip
@pytest.mark.usefixtures("no_pictures")
def test_what_cannot_be_is_told_and_left_out_or_counted(rings, capsys, column, value, told):
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", 1)
    x, mask, event = make_rings(150)
    x[0, 0, column] = value
    contents = {"objects": x, "mask": mask, "context": event}
    store(Path("bad.h5"), contents, {}, {"schema": json.dumps(RINGS.node())})
    again = ("fit", "--config", "config.yaml", "--name", "again", "--data.train", "bad.h5")
    assert told in fails(capsys, *again)
    assert told in fails(capsys, "evaluate", "true.h5", "bad.h5", "--out", "a")
    run("score", "runs/tiny/model", "bad.h5", "--events", 4, "--steps", 1, "--out", "s.h5")
    with h5py.File("s.h5") as file:
        assert told in file["reason"].asstr()[0]
        assert np.isfinite(file["log_prob"][1:]).all()
    capsys.readouterr()
    run("info", "bad.h5")
    assert "malformed 1 row: " in " ".join(capsys.readouterr().out.split())
    if not np.isnan(value):
        run("evaluate", "bad.h5", "true.h5", "--fast", "--out", "report")
        metrics = json.loads(Path("report/metrics.json").read_text())
        assert sum(metrics["unphysical"].values()) == 1
        assert any("objects hold what cannot be: 1 value of" in note for note in metrics["notes"])


def test_a_damaged_file_is_told_by_every_command(rings, capsys):
    write_rings(Path("damaged.h5"), n=200, compression=0)
    with h5py.File("damaged.h5") as file:
        place = file["objects"].id.get_chunk_info(0).byte_offset + 100
    content = bytearray(Path("damaged.h5").read_bytes())
    content[place] ^= 1
    Path("damaged.h5").write_bytes(content)
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", 1)
    for command in (
        ("fit", "--config", "config.yaml", "--name", "b", "--data.train", "damaged.h5"),
        ("score", "runs/tiny/model", "damaged.h5", "--out", "s.h5"),
        ("evaluate", "damaged.h5", "true.h5", "--out", "a"),
        ("info", "damaged.h5"),
    ):
        assert "the file is damaged" in fails(capsys, *command)
