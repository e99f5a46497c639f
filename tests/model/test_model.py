"""SetFlow: reproducible events, and a folder that comes back as the same model."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml

import setflow
from laws.laws import redraw
from setflow.data import Standardizer
from setflow.model.folder import CLASSES, build, describe


def _flow(conditions=(), cardinality=None):
    field = redraw(
        setflow.TransformerField(3, hidden=16, layers=1, heads=2, condition_dim=len(conditions))
    )
    flow = setflow.SetFlow(
        field,
        scaler=Standardizer(kinds=["real", "real", "positive"]),
        cardinality=cardinality or setflow.EmpiricalCardinality(6),
        conditions=conditions,
    )
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.randint(0, 7, (200, 1), generator=generator)
    x = torch.rand(200, 6, 3, generator=generator) + 0.1
    c = torch.rand(200, len(conditions), generator=generator) if conditions else None
    return flow.fit_statistics(setflow.SetBatch(x, mask, c))


def _flow_of_numbers():
    """A model whose p(N | c) differs from event to event."""
    flow = _flow(("pt", "mass"), setflow.ConditionalCardinality(6, 2, hidden=16))
    redraw(flow.cardinality)
    return flow


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


@pytest.mark.filterwarnings("ignore::setflow.model.OutsideTrainingWarning")
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


@pytest.mark.filterwarnings("ignore::setflow.model.OutsideTrainingWarning")
def test_numbers_are_drawn_given_the_scaled_context():
    """p(N | c) of the model at the scaled context, for two contexts in physical units."""
    flow = _flow_of_numbers()
    flow.context_scaler.mean.copy_(torch.tensor([500.0, 80.0]))
    flow.context_scaler.std.copy_(torch.tensor([100.0, 20.0]))
    c = torch.tensor([[400.0, 100.0], [600.0, 90.0]]).repeat_interleave(2000, 0)
    batch = flow.sample(4000, c, 1, solver=setflow.Euler(1))
    z = torch.tensor([[-1.0, 1.0], [1.0, 0.5]])
    n = torch.arange(7)[:, None].expand(7, 2)
    expected = flow.cardinality.log_prob(n, z.expand(7, 2, 2)).exp().T
    for lengths, chances in zip(batch.lengths.split(2000), expected, strict=True):
        got = torch.bincount(lengths, minlength=7) / 2000
        torch.testing.assert_close(got, chances, atol=0.04, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 0.2
    assert batch.x.shape == (4000, 6, 3)


@pytest.mark.filterwarnings("ignore::setflow.model.OutsideTrainingWarning")
def test_batching_and_sharding_change_no_conditional_event():
    flow = _flow_of_numbers()
    c = torch.rand(40, 2)
    whole = flow.sample(40, c, 5, solver=SOLVER)
    assert len(whole.lengths.unique()) > 3
    assert_same_events(whole, flow.sample(40, c, 5, solver=SOLVER, batch_size=7))
    for first in range(0, 40, 8):
        shard = flow.sample(8, c[first : first + 8], 5, first=first, solver=SOLVER)
        assert_same_events(whole[first : first + 8], shard)
    others = torch.where(torch.arange(40)[:, None] == 7, c, c + 1)
    assert_same_events(whole[7:8], flow.sample(40, others, 5, solver=SOLVER)[7:8])


def _events(c=None, events=32):
    mask = torch.arange(6) < torch.randint(0, 7, (events, 1))
    mask[0] = False
    return setflow.SetBatch(torch.rand(events, 6, 3) + 0.1, mask, c)


def test_the_loss_is_that_of_the_field_and_of_the_numbers():
    """The second is the mean over all events, empty ones too; padding does not change it."""
    flow, batch = _flow_of_numbers(), _events(torch.rand(32, 2))
    terms = flow.loss_terms(batch, generator=torch.Generator().manual_seed(7))
    assert list(terms) == ["flow", "cardinality"]
    loss = flow.loss(batch, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(loss, terms["flow"] + terms["cardinality"])
    z = (batch.c - flow.context_scaler.mean) / flow.context_scaler.std
    log_p = flow.cardinality.log_prob(batch.lengths, z)
    torch.testing.assert_close(terms["cardinality"], -log_p.sum() / 32)
    longer = setflow.SetBatch(
        torch.nn.functional.pad(batch.x, (0, 0, 0, 5), value=float("nan")),
        torch.nn.functional.pad(batch.mask, (0, 5)),
        batch.c,
    )
    torch.testing.assert_close(flow.loss_terms(longer)["cardinality"], terms["cardinality"])
    assert flow.float().loss(batch.to(torch.float32)).dtype == torch.float32
    for cardinality in (setflow.EmpiricalCardinality(counts=[1] * 7), None):
        flow.cardinality = cardinality
        alone = flow.loss_terms(batch.to(torch.float32))
        assert list(alone) == ["flow"]


def test_the_loss_at_noise_that_is_given():
    flow, batch = _flow_of_numbers(), _events(torch.rand(32, 2))
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(batch.x.shape, generator=generator)
    t = torch.rand(32, generator=generator)
    expected = flow.loss(batch, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(flow.loss(batch, t=t, noise=noise), expected)
    flow.float()
    loss = flow.loss(batch.to(torch.float32), t=t, noise=noise)  # in float64
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="noise has shape"):
        flow.loss(batch, noise=noise[:, :2])


def test_each_part_learns_from_its_own_term():
    flow, batch = _flow_of_numbers(), _events(torch.rand(32, 2))

    def gradients(names):
        flow.zero_grad()
        terms = flow.loss_terms(batch, generator=torch.Generator().manual_seed(7))
        sum(terms[name] for name in names).backward()
        return {name: part.grad for name, part in flow.named_parameters()}

    both, field, numbers = map(gradients, (("flow", "cardinality"), ("flow",), ("cardinality",)))
    for name, gradient in both.items():
        mine, other = (field, numbers) if name.startswith("field.") else (numbers, field)
        assert torch.equal(gradient, mine[name]), name
        assert gradient.abs().max() > 1e-6, name
        assert other[name] is None, name


def test_numbers_are_learnt_with_the_field():
    """N is 1 or 5, with log-odds 2 c: the loss comes close to the entropy of that law."""
    generator = torch.Generator().manual_seed(0)
    c = 300 + 50 * torch.randn(2000, 1, generator=generator)
    chance = (2 * (c[:, 0] - 300) / 50).sigmoid()
    lengths = 1 + 4 * torch.bernoulli(chance, generator=generator).long()
    mask = torch.arange(5) < lengths[:, None]
    events = setflow.SetBatch(torch.randn(2000, 5, 1, generator=generator), mask, c)
    torch.manual_seed(0)
    flow = setflow.SetFlow(
        setflow.TransformerField(1, condition_dim=1, hidden=8, layers=1, heads=1),
        cardinality=setflow.ConditionalCardinality(6, 1, hidden=16),
        features=["x"],
        conditions=["pt"],
    ).fit_statistics(events)
    before = flow.loss_terms(events)["cardinality"].item()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(200):
        rows = torch.randint(2000, (64,), generator=generator)
        optimizer.zero_grad()
        flow.loss(events[rows], generator=generator).backward()
        optimizer.step()
    entropy = torch.distributions.Bernoulli(chance).entropy().mean().item()
    after = flow.loss_terms(events)["cardinality"].item()
    assert before == pytest.approx(math.log(2), abs=0.01)
    assert after == pytest.approx(entropy, rel=0.04)
    assert after < before - 0.2
    lengths = flow.sample(2000, c, 3, solver=setflow.Euler(1)).lengths
    for side in (chance < 0.3, chance > 0.7):
        expected = chance[side].mean().item()
        assert (lengths[side] == 5).double().mean().item() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("conditions", "cardinality"),
    [
        ((), setflow.EmpiricalCardinality(6)),
        (("pt",), setflow.EmpiricalCardinality(6)),
        (("pt",), setflow.ConditionalCardinality(6, 1, hidden=8, layers=1)),
    ],
)
def test_a_saved_model_comes_back(tmp_path, conditions, cardinality):
    flow = _flow(conditions, cardinality)
    redraw(flow.cardinality)
    c = torch.rand(5, 1) if conditions else None
    folder = flow.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.yaml", "manifest.json", "weights.safetensors"
    ]  # fmt: skip
    loaded = setflow.SetFlow.load(folder)
    assert not loaded.training
    assert loaded.conditions == conditions
    assert type(loaded.cardinality) is type(flow.cardinality)
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
        (lambda f: f.update(features=["a", "b"]), "no feature of an object 'a'"),
        (
            lambda f: f.update(
                cardinality={
                    "class_path": "setflow.ConditionalCardinality",
                    "init_args": {"max_objects": 6, "condition_dim": 2},
                }
            ),
            "condition_dim=2, but there are 0 conditions",
        ),
        (
            lambda f: f["cardinality"].update(class_path="setflow.LinearPath"),
            "expected one of setflow.ConditionalCardinality, .*, setflow.EmpiricalComposition$",
        ),
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
    with pytest.raises(NotADirectoryError, match="is a file, expected the folder of a model"):
        setflow.SetFlow.load(folder / "weights.safetensors")
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

    monkeypatch.setattr("safetensors.torch.save", fail)
    with pytest.raises(OSError, match="no space"):
        flow.save(folder, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_field_of_ones_own_cannot_be_saved_by_name(tmp_path):
    class Mine(setflow.TransformerField):
        pass

    field, scaler = Mine(3, hidden=8, layers=1, heads=1), Standardizer(3, mean=0, std=1)
    flow = setflow.SetFlow(field, scaler=scaler)
    with pytest.raises(TypeError, match="Mine cannot be written"):
        flow.save(tmp_path / "model")


EXAMPLES = {
    "setflow.ConditionalCardinality": lambda: setflow.ConditionalCardinality(
        7, 2, hidden=8, layers=1
    ),
    "setflow.ConditionalComposition": lambda: setflow.ConditionalComposition(
        3, 7, 2, hidden=8, layers=1
    ),
    "setflow.CosinePath": setflow.CosinePath,
    "setflow.EPiCField": lambda: setflow.EPiCField(
        4, object_condition_dim=2, hidden=24, latent=5, layers=3
    ),
    "setflow.EmpiricalCardinality": lambda: setflow.EmpiricalCardinality(counts=[1, 0, 2, 1]),
    "setflow.EmpiricalComposition": lambda: setflow.EmpiricalComposition(3, 7, kept=20),
    "setflow.GaussianSetField": lambda: setflow.GaussianSetField(
        torch.zeros(3), torch.ones(3), coupling=2.0, path=setflow.CosinePath()
    ),
    "setflow.GraphField": lambda: setflow.GraphField(
        4,
        object_condition_dim=2,
        hidden=24,
        layers=3,
        messages=6,
        expansion=3,
        k=5,
        coordinates=[1],
        graph_from="context",
        aggregation="edgeconv",
    ),
    "setflow.LinearPath": setflow.LinearPath,
    "setflow.PairFeatures": lambda: setflow.PairFeatures((2, 0, 1), (0.5, 0, 1), (1, 2, 3)),
    "setflow.SelfConditionedField": lambda: setflow.SelfConditionedField(
        setflow.EPiCField(4, condition_dim=2, hidden=24, latent=5, layers=3)
    ),
    "setflow.TimeSampling": lambda: setflow.TimeSampling(
        "logit_normal", 0.5, 2.0, shift_type="linear", max_len=30, weight_shift=3.0
    ),
    "setflow.TransformerField": lambda: setflow.TransformerField(
        5,
        condition_dim=2,
        set_condition_dim=3,
        hidden=24,
        layers=3,
        heads=2,
        expansion=3,
        qk_norm=True,
        pair_features=setflow.PairFeatures((2, 0, 1)),
    ),
    "setflow.data.Standardizer": lambda: Standardizer(
        kinds=["real", "positive", "real", "positive(boxcox=0.3)"]
    ),
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
        ({"n": -1}, "n must be a whole number of at least 0, got -1"),
        ({"n": 2.0}, r"n must be a whole number of at least 0, got 2\.0"),
        ({"n": "2"}, "n must be a whole number of at least 0, got '2'"),
        ({"n": torch.ones(2, 3)}, r"n must be a whole number .*, got a Tensor of shape \(2, 3\)"),
        ({"n": 2, "first": 0.5}, "first must be a whole number"),
        (
            {"n": 2, "seed": -1},
            r"seed must be a whole number of at least 0, got -1, and below 2\*\*64",
        ),
        ({"n": 2, "seed": 2**64}, "seed must be a whole number"),
        ({"n": 2, "seed": 1.5}, "seed must be a whole number"),
        ({"n": 2, "batch_size": 2.0}, "batch_size must be a whole number"),
        ({"n": 2, "lengths": [2, 7]}, "lengths reach 7, but the model knows events of up to 6"),
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
    with pytest.raises(ValueError, match=r"sample\(n, \{'pt': ...\}\)"):
        _flow(("pt",)).sample(2)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    bare = setflow.SetFlow(field, scaler=Standardizer(3, mean=0, std=1))
    with pytest.raises(ValueError, match="no cardinality model"):
        bare.sample(2)


@pytest.mark.parametrize(
    ("conditions", "dim", "message"),
    [
        ((), 2, "condition_dim=2, but there are 0 conditions: none; give as many"),
        (("pt",), 2, "condition_dim=2, but there are 1 conditions: pt"),
        (("pt", "mass"), 1, "condition_dim=1, but there are 2 conditions: pt, mass"),
    ],
)
def test_a_cardinality_model_that_does_not_fit_the_conditions(conditions, dim, message):
    field = setflow.TransformerField(3, condition_dim=len(conditions), hidden=8, layers=1, heads=1)
    cardinality = setflow.ConditionalCardinality(6, dim)
    with pytest.raises(ValueError, match=message):
        setflow.SetFlow(field, cardinality=cardinality, conditions=conditions)


@pytest.mark.parametrize("option", ["object_condition_dim", "set_condition_dim"])
def test_a_field_whose_context_it_cannot_give_is_refused(option):
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, **{option: 2})
    with pytest.raises(ValueError, match=f"{option}=2, but a SetFlow has one context row per"):
        setflow.SetFlow(field)


def test_bad_events_for_a_cardinality_model():
    flow, c = _flow_of_numbers(), torch.rand(4, 2)
    broken = torch.where(torch.arange(4)[:, None] == 2, float("nan"), c)
    longer = setflow.SetBatch(torch.rand(4, 7, 3) + 0.1, torch.ones(4, 7), c)
    for call, message in (
        (lambda: flow.loss(_events(broken, 4)), "context of 1 of 4 events holds NaN"),
        (lambda: flow.sample(4, broken), "context of event 2 is not finite: condition"),
        (
            lambda: flow.loss(_events(events=4)),
            r"expected a context c with shape \(4, 2\), got none",
        ),
        (lambda: flow.sample(4, c[:, :1]), r"shape \(4, 2\), got shape \(4, 1\)"),
        (lambda: flow.loss(longer), r"lengths are 7, expected \[0, 6\]; cut the events"),
        (lambda: flow.fit_statistics(longer), "up to 7 objects, .* up to 6, max_objects; cut the"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("conditions", "dim", "message"),
    [
        (("pt", "mass"), 0, "condition_dim=0, but there are 2 conditions: pt, mass; build it with"),
        ((), 1, "condition_dim=1, but there are 0 conditions: none"),
    ],
)
def test_a_field_that_does_not_fit_the_conditions_is_refused_before_any_use(
    conditions, dim, message
):
    field = setflow.TransformerField(3, condition_dim=dim, hidden=8, layers=1, heads=1)
    with pytest.raises(ValueError, match=f"field has {message}"):
        setflow.SetFlow(field, conditions=conditions)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 0.5}, {"first": 1.5}, {"batch_size": 0}])
def test_bad_numbers_of_a_density(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number"):
        _flow().log_prob(setflow.SetBatch(torch.zeros(1, 2, 3)), **wrong)


def test_a_value_that_is_not_finite_is_told_by_what_it_is():
    """A condition is no object, and no mask can take it away."""
    flow = _flow(("pt",))
    x, c = torch.rand(3, 2, 3), torch.tensor([[1.0], [torch.nan], [2.0]])
    with pytest.raises(
        ValueError, match=r"In event 1 condition 'pt' is nan; leave such events out$"
    ):
        flow.loss(setflow.SetBatch(x, c=c))
    x[2, 0, 1] = torch.inf
    with pytest.raises(ValueError, match=r"'phirel' of an object is inf; .* as padding$"):
        flow.loss(setflow.SetBatch(x, c=c.nan_to_num()))
    with pytest.raises(
        ValueError, match=r"condition 'pt' holds .* values, the first in event 1; le"
    ):
        flow.fit_statistics(setflow.SetBatch(torch.rand(3, 2, 3), c=c), refit=True)


def test_a_density_that_is_not_a_number_says_why():
    """Of a finite value; a row of a file gets its reason from `setflow score`."""
    flow = _flow()
    x = torch.rand(3, 2, 3)
    x[1, 0, 0] = 1e300  # in double precision
    batch, solver = setflow.SetBatch(x), setflow.Euler(2)
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.normal_()
        assert flow.log_prob_terms(batch, solver=solver).total.isnan().tolist() == [0, 1, 0]
        message = r"of 1 of 3 .* event 1, whose largest value is 1e\+300, of feature 'etarel': .*ov"
        with pytest.raises(ValueError, match=message):
            flow.log_prob(batch, solver=solver)
        with pytest.raises(ValueError, match="of 1 of 1 events"):
            flow.log_prob(batch[1], solver=solver)
        assert flow.log_prob(batch[[0, 2]], solver=solver).isfinite().all()


def test_events_of_another_width_are_told_the_features():
    with pytest.raises(ValueError, match=r"\(4, 5, 2\), expected .*'etarel', .* feature 'ptrel'"):
        _flow().loss(setflow.SetBatch(torch.rand(4, 5, 2)))
