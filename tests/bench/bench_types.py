"""What types of objects cost: a model of jets with types beside one without, on the same jets.

Both have the same field, but for a column of each type that its first layer takes, and the same
numbers of particles. The values differ, as do the densities.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import setflow
from bench.machine import REPOSITORY
from bench.setups import awake
from setflow.data import SetBatch, read_events
from setflow.schema import PARTICLE_TYPES, TYPED_JETNET, names

_SLOTS, _BATCH = 30, 128
_DRAWN, _STEPS = 256, 10
_TYPES = len(PARTICLE_TYPES) - 1
_AIM = "at least 0.91 (10% above); they compute different things"


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


def models(events: int) -> tuple[setflow.SetFlow, setflow.SetFlow, SetBatch, SetBatch]:
    """Return models without and with types, and so many of the jets that each was given."""
    path = REPOSITORY / "datasets/pythia-top/train.h5"
    features = names(TYPED_JETNET.objects)
    typed = read_events(
        path, TYPED_JETNET, features=features, max_objects=_SLOTS, stop=2000
    ).objects
    plain = SetBatch(typed.x[..., :3], typed.mask)
    without = setflow.SetFlow(
        awake(setflow.TransformerField(3)), schema="jetnet",
        cardinality=setflow.EmpiricalCardinality(_SLOTS),
    )  # fmt: skip
    field = awake(setflow.TransformerField(3, object_condition_dim=_TYPES))
    with_types = setflow.SetFlow(
        field, schema=TYPED_JETNET, features=features,
        cardinality=setflow.EmpiricalComposition(_TYPES, _SLOTS),
    )  # fmt: skip
    without.fit_statistics(plain)
    with_types.fit_statistics(typed)
    return without.eval(), with_types.eval(), plain[:events], typed[:events]


def bench_typed_loss(interleaved):
    without, with_types, plain, typed = models(_BATCH)

    def step(flow: setflow.SetFlow, batch: SetBatch) -> Tensor:
        flow.zero_grad()
        loss = flow.loss(batch, generator=torch.Generator().manual_seed(1))
        loss.backward()
        return loss.detach()

    assert step(with_types, typed).isfinite()
    interleaved(
        f"types: loss, forward and backward, TransformerField (128 x 4), {_BATCH} jets of "
        f"{_SLOTS} particles",
        reference=lambda: step(without, plain),
        contender=lambda: step(with_types, typed),
        rounds=15,
        objects=int(plain.mask.sum()),
        aim=_AIM,
    )


def bench_typed_sampling(interleaved):
    without, with_types, plain, _ = models(_DRAWN)
    solver = setflow.Midpoint(_STEPS)

    def drawn(flow: setflow.SetFlow) -> SetBatch:
        return flow.sample(_DRAWN, seed=1, solver=solver)

    assert torch.equal(drawn(with_types).lengths, drawn(without).lengths)
    interleaved(
        f"types: sampling, TransformerField (128 x 4), {_DRAWN} jets of {_SLOTS} particles, "
        f"midpoint {_STEPS} steps",
        reference=lambda: drawn(without),
        contender=lambda: drawn(with_types),
        objects=int(plain.mask.sum()),
        aim=_AIM,
    )


def bench_typed_score(interleaved):
    without, with_types, plain, typed = models(16)
    solver = setflow.Midpoint(2)

    @torch.no_grad()
    def scored(flow: setflow.SetFlow, batch: SetBatch) -> Tensor:
        return flow.log_prob(batch, solver=solver)

    assert scored(with_types, typed).isfinite().all()
    interleaved(
        f"types: exact log-density, TransformerField (128 x 4), {len(plain)} jets of {_SLOTS} "
        "particles, midpoint 2 steps",
        reference=lambda: scored(without, plain),
        contender=lambda: scored(with_types, typed),
        objects=int(plain.mask.sum()),
        aim=_AIM,
    )
