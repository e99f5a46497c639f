"""The Lightning modules apart from the command line."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import setflow
from laws.laws import redraw
from setflow import SetBatch
from setflow.cli.fit import fit
from setflow.data import JetWriter, LengthBatchSampler, SetDataset, Standardizer, read_jets
from setflow.training import ExportBestModel, SetDataModule
from setflow.training import data as training_data
from setflow.training.data import PlacedBatch, PlacedDataset
from setflow.training.module import FlowMatchingModule
from setflow.training.optimizers import LAST_RATE, warmup_cosine
from setflow.training.processes import SharedBatches

SAMPLE = str(Path(__file__).resolve().parents[2] / "datasets/pythia-top/heldout.h5")


def test_both_jets_of_an_event_fall_on_the_same_side():
    data = SetDataModule(SAMPLE, max_objects=5, val_fraction=0.2, conditions=["pt", "mass"])
    train, val = data.train_events, data._val
    jets = read_jets(SAMPLE, max_objects=5)
    known = zip(jets.context(["pt", "mass"]).tolist(), jets.event_number.tolist(), strict=True)
    event_of = {tuple(jet): event for jet, event in known}
    assert len(event_of) == len(jets)
    sides = [{event_of[tuple(jet)] for jet in side.c.tolist()} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert len(train) + len(val) == len(jets)
    assert len(val) == pytest.approx(0.2 * len(jets), rel=0.1)


def test_an_epoch_holds_every_training_jet_once():
    data = SetDataModule(SAMPLE, max_objects=5, batch_size=64, conditions=["pt"])
    data.setup("fit")
    batches = list(data.train_dataloader())
    seen = torch.cat([batch.events.c[:, 0] for batch in batches])
    place = torch.cat([batch.place for batch in batches])
    assert torch.equal(place.sort().values, torch.arange(len(data.train_events)))
    assert torch.equal(seen, data.train_events.c[place, 0])


# --- the noise of an event is its own ---


class Noted(setflow.SetFlow):
    """Notes the time and the noise of each event, by its pT and mass."""

    def __init__(self):
        field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2)
        super().__init__(field.float(), conditions=["pt", "mass"])
        self.noted = {}

    def loss_terms(self, batch, *, t, times, noise, **_):
        for jet, *seen in zip(batch.c.tolist(), t.tolist(), batch.lengths, noise, strict=True):
            assert tuple(jet) not in self.noted, "once an epoch"
            self.noted[tuple(jet)] = (seen[0], seen[2][: seen[1]].clone())
        return {"flow": self.field.out.weight.sum()}


def noise_of(*, epoch=0, workers=0, ranks=1, stage="training", times=None, **options):
    """The noise and the time of each event of an epoch, which `ranks` processes share."""
    data = SetDataModule(
        SAMPLE, max_objects=6, conditions=["pt", "mass"], val_fraction=0.9, **options
    )
    data.setup("fit")
    flow = Noted()
    module = FlowMatchingModule(flow, times=times)
    loader = data.train_dataloader() if stage == "training" else data.val_dataloader()
    for rank in range(ranks):
        sampler = SharedBatches(loader.sampler._batches, rank=rank, processes=ranks)
        sampler.set_epoch(epoch)
        shared = DataLoader(loader.dataset, sampler=sampler, batch_size=None, num_workers=workers)
        module.trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        module.log = module.log_dict = lambda *_, **__: None
        for index, batch in enumerate(shared):
            if not batch.idle:
                getattr(module, f"{stage}_step")(batch, index)
    return flow.noted


def assert_same(one, other):
    assert one.keys() == other.keys()
    for jet, (t, noise) in one.items():
        assert t == other[jet][0]
        assert torch.equal(noise, other[jet][1])


@pytest.mark.parametrize("stage", ["training", "validation"])
def test_the_noise_of_an_event_depends_on_neither_batch_nor_process(stage):
    torch.manual_seed(3)
    expected = noise_of(stage=stage)
    assert len(expected) > 400
    for other in ({"batch_size": 64}, {"batch_size": 7}, {"workers": 2}, {"ranks": 3}):
        assert_same(noise_of(stage=stage, **other), expected)


def test_the_noise_of_training_is_normal_and_its_times_are_uniform():
    seen = noise_of().values()
    noise = torch.cat([noise.flatten() for _, noise in seen])
    assert scipy.stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest([t for t, _ in seen], "uniform").pvalue > 1e-3
    times = setflow.TimeSampling(shift_type="constant", constant=50.0)
    assert np.median([t for t, _ in noise_of(times=times).values()]) > 0.9


def test_other_epochs_and_other_seeds_have_other_noise():
    torch.manual_seed(3)
    first, second = noise_of(), noise_of(epoch=1)
    torch.manual_seed(4)
    other = noise_of()
    assert first.keys() == second.keys() == other.keys()
    for one, two in ((first, second), (first, other)):
        assert all(t != two[jet][0] for jet, (t, _) in one.items())
        a, b = (torch.cat([seen[jet][1].flatten() for jet in first]) for seen in (one, two))
        assert abs((a * b).mean()) < 4 / len(a) ** 0.5


def test_every_validation_has_the_same_noise():
    torch.manual_seed(3)
    first = noise_of(stage="validation")
    torch.manual_seed(4)
    assert_same(noise_of(stage="validation", epoch=5), first)


def test_batches_that_tell_no_places_are_trained_on_too():
    """A plain `SetBatch` of a loader of one's own: noise of its own for each batch and process."""
    jets = read_jets(SAMPLE, stop=8, max_objects=6)
    batch = SetBatch(jets.particles.x, jets.particles.mask, jets.context(["pt", "mass"]))
    seen = []
    for index, rank in ((0, 0), (0, 0), (1, 0), (0, 1)):
        flow = Noted()
        module = FlowMatchingModule(flow)
        module.trainer = SimpleNamespace(current_epoch=0, global_rank=rank)
        module.log = module.log_dict = lambda *_, **__: None
        module.training_step(batch, index)
        seen.append(tuple(t for t, _ in flow.noted.values()))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    assert len(set(seen[0])) == 8


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SetDataModule(SAMPLE, val_fraction=fraction)


def test_a_condition_that_the_file_lacks_is_named():
    with pytest.raises(ValueError, match="jet_features has no column 'tau32', which is asked"):
        SetDataModule(SAMPLE, conditions=["tau32"]).setup("fit")


def test_the_learning_rate_rises_and_falls():
    rates = [warmup_cosine(step / 100, 0.1) for step in range(101)]
    assert rates[10] == max(rates) == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[0] == rates[-1] == warmup_cosine(1.5, 0.1) == pytest.approx(LAST_RATE)
    assert rates[5] == pytest.approx(0.5)
    assert warmup_cosine(0.0, 0.0) == 1.0  # without a rise


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 1000, float("nan")])
def test_a_warmup_that_is_no_fraction_is_refused(warmup):
    flow = setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    with pytest.raises(ValueError, match=r"warmup must lie in \[0, 1\)"):
        FlowMatchingModule(flow, warmup=warmup)


def test_the_times_of_training_are_those_that_are_asked_for():
    """Times near the noise and a weight of 1 + 3 t: the loss is that of the same draw by hand."""
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    flow = setflow.SetFlow(field, scaler=Standardizer(3, mean=0, std=1))
    jets = setflow.SetBatch(torch.randn(64, 5, 3), torch.ones(64, 5))
    times = setflow.TimeSampling(shift_type="constant", constant=50.0, weight_shift=3.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 5, 3, generator=generator)
    t = times.sample((64,), lengths=jets.lengths, generator=generator)
    assert t.median() > 0.9
    losses = setflow.masked_fm_loss(flow.field, jets.x, noise, jets.mask, t, reduction="none")
    got = flow.loss(jets, times=times, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, ((1 + 3 * t) * losses).mean(), atol=1e-10, rtol=0)
    module = FlowMatchingModule(flow, times=times)
    assert module.times is times


@pytest.mark.parametrize("stage", ["train", "validation"])
def test_a_coupling_reaches_the_loss_of_training_and_validation(stage):
    field = redraw(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    flow = setflow.SetFlow(field, scaler=Standardizer(3, mean=0, std=1))
    jets = setflow.SetBatch(torch.randn(16, 5, 3), torch.rand(16, 5) < 0.7)
    losses = {}
    for coupling in (None, "event"):
        module = FlowMatchingModule(flow, coupling=coupling)
        module.trainer = SimpleNamespace(current_epoch=0, global_rank=0)
        module.log = lambda name, loss, **_: losses.__setitem__((name, coupling), loss)  # noqa: B023
        module.log_dict = lambda *_, **__: None
        call = module.training_step if stage == "train" else module.validation_step
        call(PlacedBatch(jets, torch.arange(16)), 0)
    plain, coupled = losses.values()
    assert coupled < 0.97 * plain  # of the same noise
    with pytest.raises(ValueError, match="coupling is 'batch', expected 'event'"):
        FlowMatchingModule(flow, coupling="batch")


def _jets(path: Path, jets: int = 300) -> None:
    """Jets whose number of particles, 1 to 6, grows with their pT."""
    generator = torch.Generator().manual_seed(0)
    pt = 1000 + 100 * torch.randn(jets, generator=generator)
    lengths = (3.5 + (pt - 1000) / 50 + torch.randn(jets, generator=generator)).round()
    mask = torch.arange(6) < lengths.clamp(1, 6)[:, None]
    x = torch.rand(jets, 6, 3, generator=generator) + 0.1
    x[..., 2] /= 6  # all of a jet hold about its pT
    features = torch.stack([pt, torch.zeros(jets), torch.ones(jets), mask.sum(-1)], -1)
    with JetWriter(path, objects=6) as writer:
        writer.write(SetBatch(x, mask), features)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """The command line of a run of five epochs in which p(N | c) is trained."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    _jets(tmp_path / "jets.h5")
    arguments = {"field": ("TransformerField", {"dim": 3, "condition_dim": 1, "hidden": 8})}
    arguments["field"][1].update(layers=1, heads=1)
    arguments["cardinality"] = ("ConditionalCardinality", {"max_objects": 6, "condition_dim": 1})
    flow = {
        name: {"class_path": f"setflow.{cls}", "init_args": init}
        for name, (cls, init) in arguments.items()
    }
    config = {
        "model": {
            "flow": {"class_path": "setflow.SetFlow", "init_args": {**flow, "conditions": ["pt"]}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}},
        },
        "data": {"train": "jets.h5", "max_objects": 6, "batch_size": 32, "val_fraction": 0.2},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 5,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "setflow.training.MovingAverage",
                    "init_args": {"decay": 0.8},
                }
            ],
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return ("--config", "config.yaml")


def _metrics(run: str) -> list[dict[str, float]]:
    with (Path("runs") / run / "csv/version_0/metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _rates(run: str) -> list[float]:
    """The logged learning rates of a run, as fractions of the largest that is possible."""
    return [row["lr-AdamW"] / 0.02 for row in _metrics(run) if "lr-AdamW" in row]


def _without_epochs(**trainer: object) -> None:
    """Write the configuration without `max_epochs`, and with these options of the trainer."""
    config = yaml.safe_load(Path("config.yaml").read_text())
    del config["trainer"]["max_epochs"]
    config["trainer"].update(trainer)
    Path("config.yaml").write_text(yaml.safe_dump(config))


def test_a_run_that_its_time_bounds_has_the_whole_schedule(options):
    _without_epochs(check_val_every_n_epoch=10, max_time="00:00:00:03")
    begin = time.monotonic()
    model = fit([*options, "--name", "timed", "--model.warmup", "0.2"]).model
    assert 2.5 < time.monotonic() - begin < 60
    assert setflow.SetFlow.load(model).sample(2, torch.full((2, 1), 1000.0)).x.isfinite().all()
    rates = _rates("timed")
    top = rates.index(max(rates))
    assert rates[0] < 0.5
    assert max(rates) > 0.8
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.2 * max(rates)


def test_of_steps_and_time_what_ends_first_bounds_the_schedule(options):
    _without_epochs(max_steps=20)
    fit([*options, "--name", "steps"])
    fit([*options, "--name", "both", "--trainer.max_time", "10:00:00:00"])
    rates = _rates("steps")
    assert _rates("both") == rates
    assert rates == pytest.approx([warmup_cosine((step + 0.5) / 20, 0.05) for step in range(20)])


def test_a_run_that_early_stopping_ends_has_a_constant_rate(options):
    stopping = {"monitor": "val_flow_loss", "patience": 1, "min_delta": 1e3}
    name = "lightning.pytorch.callbacks.EarlyStopping"
    _without_epochs(callbacks=[{"class_path": name, "init_args": stopping}])
    module = FlowMatchingModule(setflow.SetFlow.load(fit([*options, "--name", "stopped"]).model))
    rates = _rates("stopped")
    assert rates == pytest.approx([(step + 1) / 1000 for step in range(2 * 8)])  # epochs of 8 steps
    module.trainer = SimpleNamespace(estimated_stepping_batches=float("inf"), callbacks=[])
    assert [module._rate(step) for step in (999, 1000, 10**6)] == [1.0, 1.0, 1.0]


def test_field_and_numbers_are_trained_together(options):
    """Both terms are logged beside their sum; the step of the best field is what is exported."""
    model = fit([*options, "--name", "both"]).model
    rows = _metrics("both")
    for stage in ("train", "val"):
        logged = [row for row in rows if f"{stage}_loss" in row]
        assert len(logged) >= 5
        for row in logged:
            terms = row[f"{stage}_flow_loss"] + row[f"{stage}_cardinality_loss"]
            assert row[f"{stage}_loss"] == pytest.approx(terms, rel=1e-6)
    val = [row for row in rows if "val_loss" in row]
    share = read_jets("jets.h5").particles.lengths.bincount() / 300
    without_context = -(share * share.clamp(min=1e-9).log()).sum().item()
    assert val[-1]["val_cardinality_loss"] < without_context - 0.1
    best = torch.load("runs/both/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 1 + min(val, key=lambda row: row["val_flow_loss"])["step"]
    flow = setflow.SetFlow.load(model)
    for name, value in flow.state_dict().items():
        assert torch.equal(value, best["state_dict"][f"flow.{name}"]), name
    sample = read_jets("jets.h5")
    log_p = flow.cardinality.log_prob(
        sample.particles.lengths, flow.context_scaler(sample.context(("pt",))[:, None])[:, 0]
    )
    frequencies = setflow.EmpiricalCardinality(6).fit(sample.particles.lengths)
    assert log_p.mean() > frequencies.log_prob(sample.particles.lengths).mean() + 0.1


def test_the_best_step_is_that_of_the_field(options, monkeypatch):
    """Even where p(N | c) gets worse by more than the field gets better."""
    terms_of = setflow.SetFlow.loss_terms
    steps = iter(range(1, 1000))

    def overfitting(self, batch, **arguments):
        terms = terms_of(self, batch, **arguments)
        if not self.training:  # one validation batch has all 60 jets
            step = next(steps)
            terms = {"flow": terms["flow"] * 0 - step, "cardinality": terms["flow"] * 0 + 2 * step}
        return terms

    monkeypatch.setattr(setflow.SetFlow, "loss_terms", overfitting)
    fit([*options, "--name", "over", "--data.batch_size", "240"])
    best, last = (
        torch.load(f"runs/over/checkpoints/{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    )
    assert best == last == 5


def test_a_resumed_run_has_the_same_numbers(options, monkeypatch):
    options = (*options, "--trainer.max_epochs", "3")
    whole = fit([*options, "--name", "whole"]).model
    done = ExportBestModel.on_validation_end

    def stop(self, trainer, module):
        done(self, trainer, module)
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped")

    monkeypatch.setattr(ExportBestModel, "on_validation_end", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        fit([*options, "--name", "broken"])
    monkeypatch.setattr(ExportBestModel, "on_validation_end", done)
    broken = fit([*options, "--name", "broken", "--resume"]).model
    one, other = (setflow.SetFlow.load(model) for model in (whole, broken))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)
    c = 900 + 200 * torch.rand(200, 1)
    lengths = one.sample(200, c, 1, solver=setflow.Euler(1)).lengths
    assert torch.equal(lengths, other.sample(200, c, 1, solver=setflow.Euler(1)).lengths)


def test_a_model_without_a_trained_p_of_n_logs_the_field_alone(options):
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["flow"]["init_args"]["cardinality"] = {
        "class_path": "setflow.EmpiricalCardinality",
        "init_args": {"max_objects": 6},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    fit([*options, "--name", "field", "--trainer.max_epochs", "1"])
    (row,) = (row for row in _metrics("field") if "val_loss" in row)
    assert row["val_loss"] == row["val_flow_loss"]
    assert not any("cardinality" in name for row in _metrics("field") for name in row)


def test_one_process_of_several_writes_the_model(tmp_path, monkeypatch):
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    module = FlowMatchingModule(setflow.SetFlow(field, scaler=Standardizer(3, mean=0, std=1)))
    exporter = ExportBestModel(tmp_path / "run")
    trainer = module.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    for first in (False, True):
        monkeypatch.setattr(type(trainer), "is_global_zero", first)
        assert exporter.finish(module) == tmp_path / "run" / "model"
        assert (tmp_path / "run" / "model").is_dir() == first


def test_statistics_that_a_configuration_gives_are_kept(options):
    config = yaml.safe_load(Path("config.yaml").read_text())
    parts = config["model"]["flow"]["init_args"]
    given = {
        "kinds": ["real", "real", "positive(boxcox=0.3)"],
        "mean": [0.5, 0.5, -0.7],
        "std": [0.3, 0.3, 0.4],
    }
    given["lowest"] = [-float("inf"), -float("inf"), -1.6]
    parts["scaler"] = {"class_path": "setflow.data.Standardizer", "init_args": {"dim": 3, **given}}
    counts = {"counts": [0, 1, 1, 1, 1, 1, 1]}
    parts["cardinality"] = {"class_path": "setflow.EmpiricalCardinality", "init_args": counts}
    config["trainer"]["max_epochs"] = 1
    Path("config.yaml").write_text(yaml.safe_dump(config))
    flow = setflow.SetFlow.load(fit([*options, "--name", "given"]).model)
    torch.testing.assert_close(flow.scaler.mean, torch.tensor(given["mean"]).double())
    assert flow.scaler.lowest[2].item() == -1.6
    assert flow.cardinality.probabilities.tolist() == [0, *[1 / 6] * 6]
    pt = read_jets("jets.h5").context(("pt",))
    assert flow.context_scaler.mean.item() == pytest.approx(pt.mean().item(), rel=0.01)  # fitted


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    """Arguments that change the shape of no weight: heads, the path, the exponent of a feature."""

    def module(*, path=None, exponent=0.0, **options):
        field = setflow.TransformerField(3, hidden=8, layers=1, **options)
        scaler = Standardizer(kinds=["real", "real", f"positive(boxcox={exponent})"])
        flow = setflow.SetFlow(field, path=path or setflow.LinearPath(), scaler=scaler)
        return FlowMatchingModule(flow)

    checkpoint, saved = {}, module(heads=2)
    saved.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    read = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    module(heads=2).on_load_checkpoint(read)
    for other, message in (
        (module(), "field.heads is 2 there and 1 in the configuration; give the module"),
        (module(heads=2, path=setflow.CosinePath()), "flow.path is 'setflow.LinearPath' there"),
        (module(heads=2, exponent=0.3), r"'positive\(boxcox=0.3\)'"),
    ):
        with pytest.raises(ValueError, match=f"is of another architecture: .*{message}"):
            other.on_load_checkpoint(read)
    module().on_load_checkpoint({"batches_into_epoch": 0})  # which earlier versions wrote


# --- a loss that is not finite ---


def _spoilt(value, where):
    """A model, and 40 events one of which, number 17, holds a value that is not finite."""
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2).float()
    flow = setflow.SetFlow(field, conditions=["pt", "mass"])
    events = SetBatch(torch.randn(40, 5, 3), [[1, 1, 1, 0, 0]] * 40, torch.randn(40, 2))
    flow.fit_statistics(events)
    if where == "feature":
        events.x[17, 2, 1] = value
    else:
        events.c[17, 1] = value
    events.x[3, 4] = float("nan")  # padding may hold anything
    return flow, events


def _trained(module, events, **options):
    """Train as `fit` does, three batches of eight an epoch in a fixed order."""
    data = PlacedDataset(SetDataset(events))
    batches = LengthBatchSampler(events.lengths, 8, shuffle=False, window=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    loaders = [DataLoader(data, sampler=batches, batch_size=None) for _ in range(2)]
    trainer.fit(module, *loaders)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec)")
@pytest.mark.parametrize("where", ["feature", "condition"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_training_names_the_event_and_the_feature_that_are_not_finite(where, value):
    flow, events = _spoilt(value, where)
    events = events.to(torch.float32)
    what = {"feature": "feature 'phirel' of an object", "condition": "condition 'mass'"}[where]
    message = f"train_loss is nan at step 2. In event 17 of the training events {what} is {value:g}"
    with pytest.raises(ValueError, match=message):
        _trained(FlowMatchingModule(flow), events)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec)")
def test_on_an_accelerator_a_loss_is_looked_at_where_it_is_logged(monkeypatch):
    """By then the weights are spoilt, and the events of the batch are not the reason."""
    monkeypatch.setattr("setflow.training.module.is_at_hand", lambda _: False)
    flow, events = _spoilt(float("nan"), "feature")
    message = "train_loss is nan at step 3. In event 17 of the training events feature 'phirel'"
    with pytest.raises(ValueError, match=message):
        _trained(FlowMatchingModule(flow), events.to(torch.float32), log_every_n_steps=4)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec)")
def test_a_loss_of_finite_data_that_is_not_finite_says_so():
    flow, events = _spoilt(0.0, "feature")
    with torch.no_grad():
        flow.field.out.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="events of this batch are finite, but weights of the"):
        _trained(FlowMatchingModule(flow), events.to(torch.float32))
    with torch.no_grad():
        flow.field.out.weight.fill_(1e38)
    with pytest.raises(ValueError, match="the field's arithmetic that overflows"):
        _trained(FlowMatchingModule(flow), events.to(torch.float32))


def test_a_model_without_statistics_is_not_trained():
    flow = setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    module = FlowMatchingModule(flow)
    module.trainer = SimpleNamespace(current_epoch=0, global_rank=0)
    with pytest.raises(ValueError, match=r"never fitted; call flow\.fit_statistics"):
        module.training_step(SetBatch(torch.randn(4, 5, 3)), 0)
    with pytest.raises(TypeError, match=r"FlowMatchingModule expects a setflow\.SetBatch"):
        module.training_step(torch.randn(4, 5, 3), 0)


# --- the columns of a file ---


@pytest.mark.filterwarnings("ignore:.*(LeafSpec|many workers|logging interval)")
def test_a_model_and_its_data_must_agree_on_names(tmp_path):
    features, conditions = ("ptrel", "etarel", "phirel"), ("mass", "pt")
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2).float()
    flow = setflow.SetFlow(field, features=features, conditions=conditions)
    right = SetDataModule(SAMPLE, max_objects=4, conditions=conditions, features=features)
    jets = read_jets(SAMPLE, max_objects=4)
    x, c = right.train_events.x, right.train_events.c
    known = {tuple(row) for row in jets.jets[:, [2, 0]].tolist()}
    assert {tuple(row) for row in c.tolist()} <= known
    assert (x[..., 0] >= x[..., 0].roll(-1, 1))[:, :-1].all(), "ptrel is first, hardest first"
    flow.fit_statistics(right.train_events)
    options = {"max_steps": 1, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    options |= {"default_root_dir": tmp_path, "limit_val_batches": 0}
    for name, wrong in (
        ("features", SetDataModule(SAMPLE, max_objects=4, conditions=conditions)),
        ("conditions", SetDataModule(SAMPLE, conditions=["pt", "mass"], features=features)),
    ):
        with pytest.raises(ValueError, match=rf"the model has the {name} .*SetDataModule.*{name}="):
            Trainer(**options).fit(FlowMatchingModule(flow), datamodule=wrong)
    Trainer(**options).fit(FlowMatchingModule(flow), datamodule=right)
    with pytest.raises(ValueError, match="no column 'charge', which is asked for"):
        SetDataModule(SAMPLE, features=["ptrel", "charge"]).setup("fit")


def test_event_numbers_beyond_int64_hold_events_out_whole(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(SAMPLE) as file, h5py.File(path, "w") as new:
        for key in ("particle_features", "jet_features"):
            new[key] = file[key][:200, ..., :4] if key == "jet_features" else file[key][:200]
        new["event_number"] = file["event_number"][:200].astype("u8") + np.uint64(2**63)
    parts = []
    for data in (path, SAMPLE):
        events = read_jets(data, stop=200).event_number
        numbers = read_jets(data, stop=200, max_objects=3).event_number.view(torch.int64)
        held = training_data.held_out(numbers, 0.3, 5)
        parts.append(held)
        assert not {*events[held].tolist()} & {*events[~held].tolist()}
    assert torch.equal(*parts)
