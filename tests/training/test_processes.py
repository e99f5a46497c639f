"""What several processes take of a batch, and that their mean is the loss of all of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import setflow
from each import each
from setflow.data import LengthBatchSampler, SetDataset
from setflow.sets.batch import SetBatch
from setflow.training import processes
from setflow.training.conditions import complete
from setflow.training.data import PlacedDataset, SetDataModule
from setflow.training.module import FlowMatchingModule
from setflow.training.processes import PlacedBatch, SharedBatches, launched

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = sorted(path.parent.name for path in MODELS.glob("*/config.yaml"))


@each("n", [1, 3, 8, 9, 31])
@each("of", [1, 2, 4, 5])
def test_shares_of_batches_in_memory_cover_them(n, of):
    lengths = [1 + k % 5 for k in range(n)]

    def batches():
        return LengthBatchSampler(lengths, 4, seed=3, window=1)

    found = [list(SharedBatches(batches(), rank=k, processes=of)) for k in range(of)]
    for expected, *step in zip(batches(), *found, strict=True):
        assert all(share.rows for share in step), "none waits for the others"
        taken = [row for share in step if not share.idle for row in share.rows]
        assert sorted(taken) == sorted(expected)
        assert {share.of for share in step} == {None if of == 1 else len(expected)}


def test_they_go_on_in_the_middle_of_an_epoch_and_know_the_epoch():
    whole, later = (
        SharedBatches(LengthBatchSampler([1] * 9, 2), rank=1, processes=2) for _ in "ab"
    )
    whole.set_epoch(4)
    later.set_epoch(4)
    later.skip(2)
    assert list(later) == list(whole)[2:]


def module_of(flow):
    module = FlowMatchingModule(flow)
    module.trainer = SimpleNamespace(current_epoch=0, global_step=0, log_every_n_steps=50)
    module.log = module.log_dict = lambda *_, **__: None
    return module


@each("n", [1, 2, 7, 8])
@each("of", [2, 3, 4])
@each("weighted", [False, True])
def test_the_mean_over_processes_is_the_loss_of_the_batch(n, of, weighted, monkeypatch):
    """Gradients, too, which DDP takes the mean of, with events of each size and of none."""
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2)
    p_of_n = setflow.ConditionalCardinality(6, 2)
    flow = setflow.SetFlow(field, cardinality=p_of_n, conditions=["pt", "mass"])
    mask = torch.arange(6) < (torch.arange(n) % 7)[:, None]
    weight = torch.rand(n) - 0.2 if weighted else None
    events = SetBatch(torch.randn(n, 6, 3), mask, torch.randn(n, 2), weight)
    many = torch.arange(6) < 1 + torch.arange(20)[:, None] % 6
    flow.fit_statistics(SetBatch(torch.randn(20, 6, 3), many, torch.randn(20, 2)))
    module, data = module_of(flow), PlacedDataset(SetDataset(events))

    def loss_and_gradients(share):
        loss = module._loss("train", data[share], 0, 5, None)
        return torch.cat([loss[None], *(
            grad.flatten() for grad in torch.autograd.grad(loss, list(flow.parameters()))
        )])  # fmt: skip

    expected = loss_and_gradients(list(range(n)))
    monkeypatch.setattr(processes, "this_process", lambda: (0, of))
    shares = [
        next(iter(SharedBatches(LengthBatchSampler(events.lengths, n), rank=k, processes=of)))
        for k in range(of)
    ]
    found = torch.stack([loss_and_gradients(share) for share in shares]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_batch_of_a_process_alone_is_worth_itself():
    batch = PlacedBatch(SetBatch(torch.zeros(2, 1, 3)), torch.arange(2))
    assert batch.worth == 1.0


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": 8}, None),  # in a batch script, before srun
        ({"SLURM_STEP_NUM_TASKS": 1, "SLURM_NTASKS": 1}, None),
        (
            {"SLURM_STEP_NUM_TASKS": 8, "SLURM_NTASKS_PER_NODE": 4, "SLURM_NNODES": 2},
            (4, 2),
        ),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 6}, (2, 3)),
    ],
)
def test_whoever_starts_processes_tells_how_many(told, expected, monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert launched() == expected


def test_srun_must_tell_how_many_there_are_on_a_node(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(ValueError, match="give --ntasks-per-node to sbatch in place of --ntasks"):
        launched()


def of_shipped(config):
    """The model of a configuration and some events: those of its training file, if it is here."""
    node, train = config["model"]["flow"], MODELS.parent / config["data"]["train"]
    if train.is_file():  # it may tell what the objects are
        complete(node["init_args"], str(train))
        flow = setflow.SetFlow.from_node(node)
        data = SetDataModule(
            str(train),
            max_objects=config["data"]["max_objects"],
            features=flow.features,
            conditions=flow.conditions,
        )
        return flow, next(data.looked_at(train=True))[:200].to(torch.float32)
    flow = setflow.SetFlow.from_node(node)
    mask = torch.arange(6) < 1 + torch.arange(5)[:, None]
    x = 0.1 * torch.rand(5, 6, 3) + 0.01
    c = torch.rand(5, len(flow.conditions)) if flow.conditions else None
    return flow, SetBatch(x * mask[..., None], mask, c).to(torch.float32)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_weight_of_a_shipped_configuration_gets_a_gradient(name):
    """DDP waits for those that get none; and an average of buffers would spoil whole numbers."""
    flow, events = of_shipped(yaml.safe_load((MODELS / name / "config.yaml").read_text()))
    flow.to(torch.float32)
    flow.fit_statistics(events)
    flow.loss(events).backward()
    assert [key for key, weight in flow.named_parameters() if weight.grad is None] == []
    kinds = {key: held.dtype for key, held in flow.named_buffers()}
    whole = [key for key, kind in kinds.items() if not kind.is_floating_point]
    assert [key for key in whole if kinds[key] != torch.bool] == []
