"""SetFlow: reproducible events, and a folder that comes back as the same model."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import setflow
from laws import redraw
from setflow.data import Standardizer
from setflow.registry import CLASSES, build, describe


def _flow(conditions=()):
    field = redraw(
        setflow.TransformerField(3, hidden=16, layers=1, heads=2, condition_dim=len(conditions))
    )
    flow = setflow.SetFlow(
        field,
        scaler=Standardizer(3, boxcox={2: 0.0}),
        cardinality=setflow.EmpiricalCardinality(6),
        conditions=conditions,
    )
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.randint(0, 7, (200, 1), generator=generator)
    x = torch.rand(200, 6, 3, generator=generator) + 0.1
    c = torch.rand(200, len(conditions), generator=generator) if conditions else None
    return flow.fit_statistics(setflow.SetBatch(x, mask, c))


SOLVER = setflow.Midpoint(3)


def assert_same_events(one, other):
    for a, b in zip(one.to_ragged(), other.to_ragged(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_samples_have_the_cardinalities_of_the_model():
    flow = _flow()
    batch = flow.sample(4000, seed=1, solver=setflow.Euler(1))
    frequencies = torch.bincount(batch.lengths, minlength=7) / 4000
    torch.testing.assert_close(frequencies, flow.cardinality.probabilities, atol=0.03, rtol=0)
    assert batch.x.shape == (4000, 6, 3)
    assert (batch.x[..., 2][batch.mask] > 0).all()
    assert batch.x[~batch.mask].abs().sum() == 0


def test_batching_and_sharding_change_no_event():
    flow = _flow()
    whole = flow.sample(40, seed=5, solver=SOLVER)
    assert_same_events(whole, flow.sample(40, seed=5, solver=SOLVER, batch_size=7))
    shards = [flow.sample(8, seed=5, first=first, solver=SOLVER) for first in range(0, 40, 8)]
    for first, shard in zip(range(0, 40, 8), shards, strict=True):
        assert_same_events(whole[first : first + 8], shard)


def test_seeds_differ_and_the_global_generator_is_left_alone():
    flow = _flow()
    before = torch.get_rng_state()
    one, other = flow.sample(5, seed=1, solver=SOLVER), flow.sample(5, seed=2, solver=SOLVER)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one.x, other.x)


def test_given_lengths_are_kept_and_change_only_what_is_longer():
    flow = _flow()
    lengths = torch.tensor([3, 0, 6])
    batch = flow.sample(3, seed=1, lengths=lengths, solver=SOLVER)
    assert torch.equal(batch.lengths, lengths)
    assert batch.x.shape == (3, 6, 3)
    longer = flow.sample(3, seed=1, lengths=torch.tensor([3, 2, 6]), solver=SOLVER)
    torch.testing.assert_close(longer.x[[0, 2]], batch.x[[0, 2]])
    assert longer.x[1, :2].abs().min() > 0


def test_context_is_scaled_and_used():
    flow = _flow(conditions=("pt", "mass"))
    c = torch.rand(4, 2)
    one, other = (
        flow.sample(4, v, 3, lengths=torch.full((4,), 3), solver=SOLVER) for v in (c, c + 1)
    )
    assert (one.x - other.x).abs().max() > 1e-3
    assert torch.equal(one.c, c)


def test_the_loss_is_that_of_scaled_features():
    flow = _flow()
    x, mask = torch.rand(8, 6, 3) + 0.1, torch.rand(8, 6) > 0.3
    t = torch.rand(8)
    generator = torch.Generator().manual_seed(7)
    got = flow.loss(setflow.SetBatch(x, mask), t=t, generator=generator)
    noise = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(7))
    expected = setflow.masked_fm_loss(flow.field, flow.scaler(x, mask), noise, mask, t)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("conditions", [(), ("pt",)])
def test_a_saved_model_comes_back(tmp_path, conditions):
    flow = _flow(conditions)
    c = torch.rand(5, 1) if conditions else None
    folder = flow.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.yaml", "manifest.json", "weights.safetensors"
    ]  # fmt: skip
    loaded = setflow.SetFlow.load(folder)
    assert not loaded.training
    assert loaded.conditions == conditions
    for (name, mine), (other, theirs) in zip(
        flow.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert_same_events(
        flow.sample(5, c, seed=2, solver=SOLVER), loaded.sample(5, c, seed=2, solver=SOLVER)
    )


def test_further_nodes_of_the_configuration_are_kept(tmp_path):
    folder = _flow().save(tmp_path / "model", config={"model": {"warmup": 0.1}, "data": {"a": 1}})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["warmup"] == 0.1
    assert config["data"] == {"a": 1}
    assert config["model"]["flow"]["class_path"] == "setflow.SetFlow"


@pytest.mark.parametrize("name", ["config.yaml", "weights.safetensors"])
def test_a_changed_file_is_refused(tmp_path, name):
    folder = _flow().save(tmp_path / "model")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{name} does not match its hash"):
        setflow.SetFlow.load(folder)


def _rewrite(folder, change):
    """Change the configuration and its hash, as an attacker or a careful user would."""
    import hashlib

    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.yaml"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["field"].update(class_path="os.system"), "'os.system' is not allowed"),
        (lambda f: f["field"].update(class_path="setflow.LinearPath"), "is not allowed"),
        (lambda f: f["field"]["init_args"].update(hiden=3), "did you mean 'hidden'"),
        (lambda f: f["field"]["init_args"].update(hidden=32), "does not hold the weights"),
        (lambda f: f.update(filed=1), "SetFlow has no argument 'filed'"),
        (lambda f: f.pop("field"), "has no field"),
        (lambda f: f.update(scaler="Standardizer"), "expected a mapping with class_path"),
        (lambda f: f["field"]["init_args"].update(hidden="abc"), "cannot be built"),
        (lambda f: f["field"]["init_args"].update(heads=0), "sizes must be positive"),
        (lambda f: f["field"]["init_args"].pop("dim"), "cannot be built"),
        (lambda f: f["field"].update(init_args=["a"]), "must be a mapping"),
        (lambda f: f.update(features=5), "not iterable"),
        (lambda f: f.update(field=None), "has no field"),
        (lambda f: f.update(features=["a", "b"]), "dim=3, but there are 2 names"),
    ],
)
def test_a_configuration_that_cannot_be_trusted(tmp_path, change, message):
    folder = _flow().save(tmp_path / "model")
    _rewrite(folder, lambda config: change(config["model"]["flow"]["init_args"]))
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow.load(folder)


def test_yaml_that_builds_objects_is_refused(tmp_path):
    folder = _flow().save(tmp_path / "model")
    (folder / "config.yaml").write_text("model: !!python/object/apply:os.getcwd []\n")
    _keep_hash(folder)
    with pytest.raises(ValueError, match="describes no model"):
        setflow.SetFlow.load(folder)


def _keep_hash(folder):
    import hashlib

    content = (folder / "config.yaml").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.yaml"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_folder_that_is_missing_or_incomplete(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        setflow.SetFlow.load(tmp_path / "nothing")
    folder = _flow().save(tmp_path / "model")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks weights\.safetensors"):
        setflow.SetFlow.load(folder)
    (folder / "weights.safetensors").touch()
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not a manifest"):
        setflow.SetFlow.load(folder)


def test_saving_overwrites_only_when_asked_and_only_models(tmp_path):
    flow = _flow()
    folder = flow.save(tmp_path / "model")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        flow.save(folder)
    flow.save(folder, overwrite=True)
    assert (folder / "manifest.json").read_bytes() == before
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("...")
    with pytest.raises(FileExistsError, match="not replaced"):
        flow.save(other, overwrite=True)
    assert (other / "chapter1.tex").read_text() == "..."


def test_a_save_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    flow = _flow()
    folder = flow.save(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        flow.save(folder, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_field_of_ones_own_cannot_be_saved_by_name(tmp_path):
    class Mine(setflow.TransformerField):
        pass

    with pytest.raises(TypeError, match="Mine cannot be written"):
        setflow.SetFlow(Mine(3, hidden=8, layers=1, heads=1)).save(tmp_path / "model")


EXAMPLES = {
    "setflow.CosinePath": setflow.CosinePath,
    "setflow.EmpiricalCardinality": lambda: setflow.EmpiricalCardinality(7),
    "setflow.GaussianSetField": lambda: setflow.GaussianSetField(
        torch.zeros(3), torch.ones(3), coupling=2.0, path=setflow.CosinePath()
    ),
    "setflow.LinearPath": setflow.LinearPath,
    "setflow.TimeSampling": lambda: setflow.TimeSampling(
        "logit_normal", 0.5, 2.0, shift_type="linear", max_len=30, weight_shift=3.0
    ),
    "setflow.TransformerField": lambda: setflow.TransformerField(
        5, condition_dim=2, hidden=24, layers=3, heads=2, expansion=3
    ),
    "setflow.data.Standardizer": lambda: Standardizer(4, boxcox={1: 0.0, 3: 0.3}),
}


def test_every_class_of_the_table_has_an_example():
    assert EXAMPLES.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_the_table_describes_itself(name):
    node = describe(EXAMPLES[name]())
    assert node["class_path"] == name
    again = build(yaml.safe_load(yaml.safe_dump(node)), expected=object, where="test")
    assert describe(again) == node
    module = {**node, "class_path": f"{CLASSES[name].__module__}.{name.rpartition('.')[2]}"}
    assert describe(build(module, expected=object, where="test")) == node


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "must not be negative"),
        ({"n": 2, "batch_size": 0}, "at least 1"),
        ({"n": 2, "c": torch.zeros(2, 1)}, "takes no context"),
        ({"n": 2, "lengths": torch.tensor([1])}, r"expected \(2,\)"),
        ({"n": 2, "lengths": torch.tensor([1.5, 2.0])}, "integers"),
        ({"n": 2, "lengths": torch.tensor([1, -2])}, "must not be negative"),
    ],
)
def test_bad_input_of_sampling(arguments, message):
    with pytest.raises(ValueError, match=message):
        _flow().sample(**arguments)


def test_missing_context_and_missing_cardinality():
    with pytest.raises(ValueError, match=r"expected a context c with shape \(2, 1\), got none"):
        _flow(("pt",)).sample(2)
    bare = setflow.SetFlow(setflow.TransformerField(3, hidden=8, layers=1, heads=1))
    with pytest.raises(ValueError, match="no cardinality model"):
        bare.sample(2)
