"""`setflow fit` as its user meets it: help, errors, progress, starts from a model, last lines."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from pathlib import Path

import h5py
import pytest
import torch
import yaml

import setflow
import setflow.training
from cli.shell import CONFIG, fails, run, write_jets
from each import each
from setflow.cli.fit_arguments import FIT

TINY = ("--config", "config.yaml")
HIDDEN = "--model.flow.init_args.field.init_args.hidden"


@pytest.fixture(scope="module")
def all_options():
    """What `--help-all` shows, of Lightning's own parser."""
    import contextlib
    import io

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        run("fit", "--help-all")
    return shown.getvalue()


def test_the_options_of_the_help_are_those_of_the_parser_with_its_defaults(all_options):
    for argument in FIT.arguments:
        (name, *_) = argument.names.split()
        if name in ("--help-all", "--config") or "init_args" in name:
            continue
        place = re.search(rf"^  {re.escape(name)}[ ,](.*?)(?=^  --|^\S)", all_options, re.M | re.S)
        assert place, f"{name} is no option of fit"
        if argument.default is not None:
            shown = re.search(r"""[Dd]efault:\s+[`'"]*([\w.-]+?)[`'".,)]*\s""", place[1] + " ")
            assert shown is not None, name
            assert shown[1] == str(argument.default), name


def test_the_help_names_ours_and_where_lightnings_are(capsys):
    with pytest.raises(SystemExit) as stop:
        run("fit", "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--config", "--data.train", "--trainer.max_steps", "--name", "--force",
                   "--resume", "--init", "--help-all"):  # fmt: skip
        assert option in text
    assert "--trainer.plugins" not in text
    assert len(text.splitlines()) < 120


def test_the_configuration_that_the_help_shows_trains(folder, capsys):
    with pytest.raises(SystemExit):
        run("fit", "--help")
    text = capsys.readouterr().out
    shown = text[text.index("  name: small") :]
    Path("small.yaml").write_text("\n".join(line[2:] for line in shown.splitlines()))
    write_jets(Path("top.h5"), slots=30)
    optimizer = ("--model.optimizer", "torch.optim.Adam", "--model.optimizer.init_args.lr", "1e-3")
    run(
        "fit",
        "--config",
        "small.yaml",
        "--trainer.max_steps",
        2,
        "--trainer.accelerator",
        "cpu",
        "--trainer.val_check_interval",
        1,
        "--trainer.log_every_n_steps",
        1,
        HIDDEN,
        8,
        *optimizer,
    )
    assert setflow.SetFlow.load("runs/small/model").scaler.kinds[2] == setflow.schema.Positive()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--data.trian", "x.h5"), "has no option --data.trian, did you mean --data.train?"),
        (("--trainer.max_stepz", 3), "no option --trainer.max_stepz, did you mean --trainer.max_s"),
        (("--trainer.max_steps", 1.5), "trainer.max_steps: expected a whole number, got 1.5"),
        (("--trainer.max_steps", -5), "--trainer.max_steps is -5, expected a whole number of at"),
        (
            ("--trainer.max_epochs", -2),
            "max_epochs is -2, expected a whole number of at least 0, or -1",
        ),
        (
            ("--model.flow.init_args.field", "EPiC"),
            "no class EPiC, expected one such as setflow.TransformerField",
        ),
        (("--model.flow.init_args.scaler", "Std"), "a class such as setflow.data.Standardizer, go"),
        (("--trainer.callbacks", "Stop"), "a class such as lightning.pytorch.callbacks.EarlyStopp"),
        (("--trainer.accelerator", "gpu"), "--trainer.accelerator is 'gpu', but torch finds no CU"),
        (("--trainer.accelerator", "cuda"), "is 'cuda', but torch finds no CUDA device here; use"),
        (("--trainer.accelerator", "tpu"), "is 'tpu', expected auto, cpu or cuda"),
        (("--seed_everything", -1), "--seed_everything: -1 is not in bounds"),
        (
            ("--model.flow.init_args.cardinality.init_args.max_objects", 4),
            "jets have up to 8 particles, but the cardinality model knows up to 4: cut them "
            "with --data.max_objects=4, or raise --model.flow.init_args.cardinality.init_args.max",
        ),
        (
            ("--trainer.precision", "foo"),
            "trainer.precision: expected one of 64, 32, 16, transformer-engine, tran",
        ),
        (("--trainer.precision", "foo"), "bf16 or null, got foo; "),
        (
            ("--model.optimizer.init_args.lr", "abc"),
            "model.optimizer: lr: expected a number, got abc; ",
        ),
        (("--model.optimizer.init_args.lr", "null"), "the optimizer cannot be made of what it"),
        (("--model.optimizer", "Adm"), "model.optimizer: there is no class Adm, expected one such"),
        ((HIDDEN.replace("hidden", "heads"), "x"), "heads: expected a whole number or null, got x"),
        (
            ("--model.flow.init_args.scaler.init_args.kinds", "abc"),
            "model.flow: scaler: kinds: expected a list or null, got abc; ",
        ),
        (
            ("--model.flow.init_args.cardinality.init_args.max_object", 3),
            "cardinality: Option 'max_object' is not accepted, did you mean max_objects?; ",
        ),
        (("--model.times", "abc"), "model.times: expected null or a class such as setflow.TimeSa"),
        (("--model.coupling", "batch"), "model.coupling: expected one of event or null, got batch"),
        (("--trainer.gradient_clip_val", "x"), "gradient_clip_val: expected a number or null, got"),
        (("--seed_everything", "abc"), "seed_everything: expected true or false or a whole number"),
        (
            ("--trainer.max_time", "5min"),
            "--trainer.max_time is '5min', expected days:hours:minutes:seconds, such as 00:00:05",
        ),
        (
            ("--trainer.val_check_interval", "abc"),
            "is 'abc', expected a number of steps, or days:hours:minutes:seconds",
        ),
        (("--trainer.devices", "abc"), "--trainer.devices is 'abc', expected auto or a number fr"),
        (("--trainer.devices=5000",), "--trainer.devices is '5000', expected auto or a number fr"),
        (("--trainer.devices", 0), "--trainer.devices is '0', expected auto or a number from 1"),
        (("--seed", 3), "has no option --seed, did you mean --seed_everything?"),
        (("--data.formt", "x"), "has no option --data.formt, did you mean --data.format?"),
        (("--data.conditions", "[pt]"), "data.conditions follows the model; leave it out, and say"),
        (("--data.schema", "jetnet"), "say it by --model.flow.init_args.schema, or by model.flow"),
        (("--data.select", "glass > 1"), "pt, eta, mass, num_particles\n"),  # is not 'mass'
        (("--max_steps", 3), "has no option --max_steps, did you mean --trainer.max_steps?"),
        (("--lr", 3), "no option --lr, did you mean --model.optimizer.init_args.lr?"),
        ((HIDDEN.replace("hidden", "hiden"), 3), "did you mean hidden?"),
        (("--trainer.val_check_interval", "1e5"), "`val_check_interval` (100000) must be less"),
        (
            ("--model.optimizer", "torch.optim.Adamm"),
            "torch.optim.Adamm is not allowed in a configuration, did you mean torch.optim.Adam?",
        ),
    ],
)
def test_an_error_of_fit_is_one_line(folder, capsys, monkeypatch, options, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = fails(capsys, "fit", *TINY, *options)
    assert expected in message
    assert message.count("\n") == 1
    assert message.count("--help") <= 1
    assert not Path("runs/tiny").exists()


def test_a_small_file_of_jets_brings_no_advice_about_logging(folder, capsys):
    """Steps are counted over all epochs, so an epoch of fewer steps than the interval is logged."""
    run("fit", *TINY, "--trainer.log_every_n_steps", 7)  # of 10 steps, 5 in an epoch
    assert "warning" not in capsys.readouterr().err
    lines = Path("runs/tiny/csv/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train_loss")
    assert any(line.split(",")[column] for line in lines[1:])


def test_a_part_of_a_model_may_be_null(folder, capsys):
    """Where Python has None, the default of `heads`."""
    run("fit", *TINY, HIDDEN.replace("hidden", "heads"), "null", "--trainer.max_steps", 1)
    assert setflow.SetFlow.load("runs/tiny/model").field.heads == 1


@each("jets", [0, 2])
def test_an_empty_sample_is_told_with_its_cause(folder, capsys, jets):
    write_jets(Path("few.h5"), jets=jets)
    message = fails(capsys, "fit", *TINY, "--data.train", "few.h5", "--data.val_fraction", 0.1)
    cause = "few.h5 holds no jets, so there is nothing to train on"
    if jets:
        cause = "the validation sample is empty: of the 2 jets in few.h5 a fraction of 0.1 is held"
    assert cause in message
    if not jets:
        message = fails(capsys, "fit", *TINY, "--data.val", "few.h5")
        assert "the validation sample is empty: few.h5 holds no jets; give a file" in message


def test_a_module_is_copied_without_what_makes_its_optimizer():
    """For the moving average of the weights, in several processes: a parser's holds locks."""

    class Locked:
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

        def __call__(self, parameters):
            return torch.optim.SGD(parameters, lr=0.1)

    flow = setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    module = setflow.training.FlowMatchingModule(flow, optimizer=Locked())
    copied = copy.deepcopy(module)
    assert copied.optimizer is module.optimizer
    own, others = list(module.parameters()), list(copied.parameters())
    assert len(own) == len(others) > 0
    assert all(a is not b and torch.equal(a, b) for a, b in zip(own, others, strict=True))


def test_keys_of_a_configuration_get_the_nearest_name(folder, capsys):
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["data"]["bach_size"] = config["data"].pop("batch_size")
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert "data has no option bach_size, did you mean data.batch_size?" in fails(
        capsys, "fit", *TINY
    )


def test_a_configuration_may_say_1e1(folder, capsys):
    text = Path("config.yaml").read_text().replace("max_epochs: 2", "max_steps: 1e0")
    Path("config.yaml").write_text(text.replace("batch_size: 32", "batch_size: 1.0e1"))
    run("fit", *TINY)
    assert "a model after 1 step," in capsys.readouterr().out
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["data"]["batch_size"] == 10


def test_options_in_front_of_the_configuration_count_too(folder, capsys):
    run("fit", "--name", "first", "--data.batch_size", 64, *TINY, "--trainer.max_steps", 1)
    written = yaml.safe_load(Path("runs/first/config.yaml").read_text())
    assert (written["name"], written["data"]["batch_size"]) == ("first", 64)
    assert written["trainer"]["max_steps"] == 1
    assert not Path("runs/tiny").exists()


@each(
    ("text", "expected"),
    [
        ("", "the configuration odd.yaml is empty; expected YAML such as"),
        ("# name: a", "odd.yaml is no configuration, for it names no settings; expected YAML"),
        ("hello", "odd.yaml is no configuration, for it names no settings; expected YAML"),
        ("def f(x: int): pass", "odd.yaml cannot be read as YAML: mapping values are not allowed"),
        (
            "data: {train: jets.h5}\ndata: {train: other.h5}",
            "the key 'data' stands twice, in lines",
        ),
        (
            "data: {train: jets.h5, train: other.h5}",
            "the key 'train' stands twice, in lines 1 and 1",
        ),
        ("dat: {train: jets.h5}", "Option 'dat.train' is not accepted, did you mean data?"),
        (
            "times: {class_path: setflow.TimeSampling}",
            "Option 'times.class_path' is not accepted at the top: it stands under model, as model",
        ),
        ("max_steps: 3", "it stands under trainer, as trainer.max_steps; "),
        (  # that there is a `name` elsewhere is no hint
            "model: {times: {class_path: setflow.TimeSampling, init_args: {name: uniform}}}",
            "model.times: Option 'name' is not accepted; ",
        ),
    ],
)
def test_a_configuration_that_is_none_is_told(folder, capsys, text, expected):
    Path("odd.yaml").write_text(text)
    message = fails(capsys, "fit", "--config", "odd.yaml")
    assert expected in message
    assert message.count("\n") == 1
    assert not Path("runs").exists()


def test_a_file_of_jets_is_no_configuration(folder, capsys):
    message = fails(capsys, "fit", "--config", "jets.h5")
    assert "jets.h5 is no configuration, for it holds no text" in message


@each(
    ("old", "new", "expected"),
    [
        ("hidden:", "hiden:", "field: Option 'hiden' is not accepted, did you mean hidden?; "),
        ("cardinality:", "cardinalty:", "is not accepted, did you mean cardinality?; "),
        ("hidden: 16", "hidden: wide", "field: hidden: expected a whole number, got wide; "),
    ],
)
def test_an_error_in_a_part_of_a_model_is_told_once(
    folder, capsys, monkeypatch, old, new, expected
):
    """As the installed command, whose name its parsers of parts would take."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/setflow"])
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG).replace(old, new))
    message = fails(capsys, "fit", *TINY)
    assert expected in message
    assert message.count("--help") == 1
    assert ": setflow: " not in message


@each("copied", [False, True])
def test_a_validation_on_the_training_jets_is_refused(folder, capsys, copied):
    if copied:
        shutil.copy("jets.h5", "other.h5")
    message = fails(capsys, "fit", *TINY, "--data.val", "other.h5" if copied else "jets.h5")
    assert "is the training file" in message
    assert "leave --data.val out" in message
    assert not Path("runs").exists()


# --- from a model ---


def test_a_run_that_starts_from_a_model_keeps_its_statistics(model):
    write_jets(Path("other.h5"), seed=9, jets=300)
    run("fit", "--init", model, "--name", "more", "--data.train", "other.h5")
    one, more = (setflow.SetFlow.load(folder) for folder in (model, "runs/more/model"))
    for part in ("scaler", "cardinality"):
        for name, value in getattr(one, part).state_dict().items():
            assert torch.equal(value, getattr(more, part).state_dict()[name]), name
    run("fit", *TINY, "--name", "anew", "--data.train", "other.h5")
    anew = setflow.SetFlow.load("runs/anew/model")
    assert not torch.equal(anew.scaler.mean, one.scaler.mean)
    config = yaml.safe_load(Path("runs/more/config.yaml").read_text())
    assert "init" not in config
    run("fit", "--resume", "--name", "more", "--trainer.max_epochs", 3)
    resumed = setflow.SetFlow.load("runs/more/model")
    assert torch.equal(resumed.scaler.mean, one.scaler.mean)


def test_a_run_starts_from_the_weights_of_the_model(model):
    none = ("--trainer.max_epochs", "null", "--trainer.max_steps", 0)
    run("fit", *TINY, "--init", model, "--name", "same", *none)
    one, same = (setflow.SetFlow.load(folder).state_dict() for folder in (model, "runs/same/model"))
    assert all(torch.equal(value, same[name]) for name, value in one.items())


def test_statistics_of_the_configuration_give_way_to_those_of_the_model(model):
    given = "{kinds: [real, real, positive], mean: [1.0, 1.0, 1.0], std: [2.0, 2.0, 2.0]}"
    run("fit", *TINY, "--init", model, "--name", "more", "--model.flow.init_args.scaler.init_args",
        given)  # fmt: skip
    one, more = (setflow.SetFlow.load(folder) for folder in (model, "runs/more/model"))
    assert torch.equal(more.scaler.mean, one.scaler.mean)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((HIDDEN, 32), "model.flow.field.hidden is 16 there and 32 in the configuration"),
        (
            ("--model.flow.init_args.scaler.init_args.kinds", "[real, real, positive(boxcox=0.3)]"),
            "model.flow.scaler.kinds is ['real', 'real', 'positive'] there and",
        ),
        (
            ("--model.flow.init_args.path", "setflow.CosinePath"),
            "model.flow.path is 'setflow.LinearPath' there and 'setflow.CosinePath'",
        ),
    ],
)
def test_another_architecture_is_named_and_nothing_is_lost(model, capsys, options, expected):
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    message = fails(capsys, "fit", *TINY, "--init", model, "--force", *options)
    assert expected in message
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == files


def test_to_resume_and_to_overwrite_exclude_each_other(model, capsys):
    files = sorted(Path("runs").rglob("*"))
    assert "give one of them" in fails(capsys, "fit", *TINY, "--resume", "--force")
    assert sorted(Path("runs").rglob("*")) == files


# --- the last lines ---


def test_fit_ends_with_what_it_wrote_and_the_next_command(folder, capsys):
    run("fit", *TINY)
    *_, wrote, following = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"wrote runs/tiny/model: a model after 10 steps, its best weights, validation loss [\d.]+, "
        r"in [\d.]+ s",
        wrote,
    )
    assert (
        following == "next: setflow sample runs/tiny/model --out runs/tiny/jets.h5 --events 10000"
    )
    assert "Not validated" not in Path("runs/tiny/model/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--trainer.max_steps", 0), "the training took 0 steps"),
        (("--trainer.max_epochs", 0), "the training took 0 steps"),
        (
            ("--trainer.max_steps", 3, "--trainer.check_val_every_n_epoch", "null",
             "--trainer.val_check_interval", 100),
            "no validation took place in 3 steps, for it is due every 100 steps",
        ),
        (("--trainer.max_steps", 2), "no validation took place in 2 steps, for it is due in each"),
    ],
)  # fmt: skip
def test_weights_that_nothing_validated_are_called_so(folder, capsys, options, expected):
    run("fit", *TINY, *options)
    out, err = capsys.readouterr()
    assert f"setflow: warning: {expected}" in err
    assert "its last weights, which were not validated" in out
    card = " ".join(Path("runs/tiny/model/README.md").read_text().split())
    assert f"**Not validated.** {expected[0].upper()}{expected[1:]}" in card


def test_progress_is_in_steps_and_a_line_now_and_then(folder, capsys):
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    del config["trainer"]["enable_progress_bar"]
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("fit", *TINY)
    out = capsys.readouterr().out
    assert "Epoch" not in out
    first, last = re.findall(r"^step .*$", out, flags=re.MULTILINE)
    assert re.fullmatch(r"step 1/10, loss [\d.]+, time left \d+:\d\d", first)
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"step 10/10, loss {number}, best validation {number}, time left 0:00", last
    )


def test_an_interrupted_run_says_how_to_go_on(folder, capsys, monkeypatch):
    from setflow.training.export import ExportBestModel

    done = ExportBestModel.on_validation_end

    def interrupt(self, trainer, module):
        done(self, trainer, module)
        raise KeyboardInterrupt

    monkeypatch.setattr(ExportBestModel, "on_validation_end", interrupt)
    with pytest.raises(SystemExit) as stop:
        run("fit", *TINY)
    assert stop.value.code == 130
    message = capsys.readouterr().err
    assert message == (
        "setflow: stopped by SIGINT; the last checkpoint is of step 5; go on with: setflow fit "
        "--resume --name tiny\n"
    )
    monkeypatch.setattr(ExportBestModel, "on_validation_end", done)
    run("fit", "--resume", "--name", "tiny")
    assert "a model after 10 steps" in capsys.readouterr().out


def test_a_model_that_cannot_be_exported_is_not_trained(folder, capsys):
    schedule = {"class_path": "setflow.VPSchedule"}
    path = {"class_path": "setflow.ScheduledPath", "init_args": {"schedule": schedule}}
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["flow"]["init_args"]["path"] = path
    Path("scheduled.yaml").write_text(yaml.safe_dump(config))
    told = fails(capsys, "fit", "--config", "scheduled.yaml")
    assert "ScheduledPath cannot be written to a model file" in told
    assert not Path("runs/tiny").exists()


def test_a_run_is_not_resumed_with_another_meaning_of_its_weights(folder, capsys):
    """The shapes are the same, and the exponent of a feature, or its name, is another."""
    run("fit", "--config", "config.yaml")
    again = ("fit", "--config", "config.yaml", "--resume", "--trainer.max_epochs", "3")
    option = "--model.flow.init_args.scaler.init_args.kinds"
    told = fails(capsys, *again, option, "[real, real, positive(boxcox=0.3)]")
    assert "model.flow.scaler.kinds is ['real', 'real', 'positive'] there and" in told
    told = fails(capsys, *again, "--model.flow.init_args.features", "[a,b,c]")
    assert "begun with another configuration: model.flow.features" in told
    told = fails(capsys, *again, "--model.flow.init_args.field.init_args.heads", "1")
    assert "field.heads is 2 there and 1 now; go on without the change" in told


def test_a_run_keeps_the_number_of_heads_that_it_took(folder):
    config = yaml.safe_load(Path("config.yaml").read_text())
    del config["model"]["flow"]["init_args"]["field"]["init_args"]["heads"]
    Path("config.yaml").write_text(yaml.safe_dump(config))
    run("fit", "--config", "config.yaml", "--trainer.max_epochs", "1")
    for written in ("runs/tiny/config.yaml", "runs/tiny/model/config.yaml"):
        flow = yaml.safe_load(Path(written).read_text())["model"]["flow"]
        assert flow["init_args"]["field"]["init_args"]["heads"] == 1, written
    run("fit", "--resume", "--name", "tiny", "--trainer.max_epochs", "2")


def test_a_model_is_not_trained_further_on_events_that_it_rules_out(folder, capsys):
    run("fit", "--config", "config.yaml", "--data.max_objects", "1")
    write_jets(Path("long.h5"))
    with h5py.File("long.h5", "r+") as file:  # at least two particles in each
        particles = file["particle_features"][:]
        particles[:, :2, 2] = particles[:, :2, 2].clip(0.01)
        particles[:, :2, 3] = 1
        file["particle_features"][:] = particles
        file["jet_features"][:, 3] = particles[..., 3].sum(1)
    told = fails(
        capsys, "fit", "--config", "config.yaml", "--name", "more", "--init", "runs/tiny/model",
        "--data.train", "long.h5",
    )  # fmt: skip
    assert "rules out" in told
    assert not Path("runs/more").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scaler.init_args.boxcx", "{2: 0}"), "scaler has no argument boxcx"),
        (("scaler.init_args.kinds", "[real, positiv, real]"), "did you mean 'positive'?"),
        (("field.class_path", "setflow.TransformrField"), "did you mean setflow.TransformerField"),
    ],
)
def test_a_wrong_part_of_a_model_is_told_in_one_line(folder, capsys, arguments, message):
    option, value = arguments
    told = fails(capsys, "fit", *TINY, f"--model.flow.init_args.{option}", value)
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert "NestedArg" not in told
    assert "Namespace" not in told


def test_a_configuration_with_box_cox_exponents_by_position_says_what_has_replaced_them(
    folder, capsys
):
    config = yaml.safe_load(Path("config.yaml").read_text())
    parts = config["model"]["flow"]["init_args"]
    parts["scaler"]["init_args"] = {"dim": 3, "boxcox": {2: 0.3}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    told = fails(capsys, "fit", "--config", "config.yaml")
    assert "write init_args: {kinds: [real, real, positive(boxcox=0.3)]}" in told
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"objects": ["etarel", "phirell", "ptrel"]}, "'phirell'"),
        ({"objects": [{"name": "ptrel", "kind": "positiv"}]}, "did you mean 'positive'?"),
        ({"object": ["etarel"]}, "did you mean 'objects'?"),
        ("jetnett", "expected jetnet"),
    ],
)
def test_a_schema_that_is_wrong_is_one_line(folder, capsys, schema, message):
    config = yaml.safe_load(Path("config.yaml").read_text())
    parts = config["model"]["flow"]["init_args"]
    parts |= {"schema": schema, "scaler": None}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    told = fails(capsys, "fit", "--config", "config.yaml")
    assert message in told
    assert "class" not in told
    assert told.count("\n") <= 1


def test_the_name_of_a_configuration_alone_is_told_as_one(folder, capsys):
    assert "takes its configuration by name: --config demo" in fails(capsys, "fit", "demo")
    told = fails(capsys, "fit", "demo", "--name", "mine")
    assert "takes its configuration by name: --config demo" in told
