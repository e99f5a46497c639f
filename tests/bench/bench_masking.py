"""What the loss costs above the field that it calls.

The bare field is evaluated at the same point of the path, with the same mask, and its backward pass
starts from a gradient that is given. Where there is padding the loss leaves it out and is faster;
where there is none it can only cost more.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import setflow
from bench.setups import FIELDS, awake, top_jets
from setflow.data import SetBatch


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


def full_jets() -> SetBatch:
    """Return events of 90 objects without padding."""
    return SetBatch(torch.randn(128, 90, 3), torch.ones(128, 90, dtype=torch.bool))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("batch", ["top jets padded to 150", "events of 90 objects, all real"])
def bench_loss(interleaved, name, batch):
    field = awake(FIELDS[name]())
    jets = top_jets(128) if batch.startswith("top") else full_jets()
    noise, t = torch.randn_like(jets.x), torch.rand(len(jets))
    x_t = setflow.LinearPath().sample_xt(jets.x, noise, t)
    given = torch.randn_like(x_t)

    def bare() -> Tensor:
        v = field(x_t, t, mask=jets.mask)
        v.backward(given)
        return v.detach()

    def masked() -> Tensor:
        loss = setflow.masked_fm_loss(field, jets.x, noise, jets.mask, t)
        loss.backward()
        return loss.detach()

    errors = (bare() - (noise - jets.x)).square().mean(-1).masked_fill(~jets.mask, 0.0)
    by_hand = (errors.sum(-1) / jets.mask.sum(-1)).mean()
    torch.testing.assert_close(masked(), by_hand, atol=1e-5, rtol=1e-5)
    interleaved(
        f"masked_fm_loss against the bare field, {name}, forward and backward: 128 {batch}",
        reference=bare,
        contender=masked,
        rounds=15,
        objects=int(jets.mask.sum()),
        aim="at least 0.95 (5% above)",
    )
