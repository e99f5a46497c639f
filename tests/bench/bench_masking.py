"""What the mask costs and what sorting by length saves, on the multiplicities of real top jets.

Each group holds a reference and a contender on the same inputs, equal in value first. Read the
ratio of their medians within one run; absolute times are those of a machine on a day.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import setflow
from setflow.data import SetBatch, Standardizer, read_jets

SAMPLE = Path(__file__).resolve().parents[2] / "datasets/pythia-top/heldout.h5"


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


@pytest.fixture
def jets() -> SetBatch:
    return read_jets(SAMPLE, stop=256).particles


def _field() -> setflow.TransformerField:
    return setflow.TransformerField(3, hidden=64, layers=2, heads=2)


def _step(loss: torch.Tensor) -> float:
    loss.backward()
    return loss.item()


@pytest.mark.benchmark(group="loss, 128 jets of 30, forward and backward")
@pytest.mark.parametrize("kind", ["bare field", "masked_fm_loss"])
def bench_loss(benchmark, jets, kind):
    batch = jets[:128]
    x, mask = batch.x[:, :30], batch.mask[:, :30]
    field, noise, t = _field(), torch.randn_like(x), torch.rand(128)

    def bare() -> float:
        x_t = (1 - t[:, None, None]) * x + t[:, None, None] * noise
        errors = (field(x_t, t, mask=mask) - (noise - x)) ** 2
        return _step((errors.mean(-1) * mask).sum(-1).div(mask.sum(-1)).mean())

    def masked() -> float:
        return _step(setflow.masked_fm_loss(field, x, noise, mask, t))

    assert bare() == pytest.approx(masked(), rel=1e-5)
    benchmark.pedantic(
        {"bare field": bare, "masked_fm_loss": masked}[kind], rounds=20, warmup_rounds=3
    )


@pytest.mark.benchmark(group="sampling, 256 jets of up to 150, midpoint 4 steps")
@pytest.mark.parametrize("kind", ["one padded batch, file order", "SetFlow.sample"])
def bench_sampling(benchmark, jets, kind):
    flow = setflow.SetFlow(_field(), scaler=Standardizer(3, boxcox={2: 0.0}))
    flow.fit_statistics(jets)
    solver = setflow.Midpoint(4)

    def sample(batch_size: int) -> SetBatch:
        return flow.sample(256, seed=1, lengths=jets.lengths, solver=solver, batch_size=batch_size)

    whole, sorted_by_length = sample(256), sample(32)
    torch.testing.assert_close(whole.x, sorted_by_length.x, atol=1e-5, rtol=1e-5)
    size = 256 if kind.startswith("one") else 32
    benchmark.pedantic(sample, args=(size,), rounds=5, warmup_rounds=1)
