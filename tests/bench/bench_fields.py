"""What fields cost, and what is saved where nothing is computed for padding.

The plain reference is the same field on batches padded to 150 slots, in random order, eager. For
sampling its batches hold 128 events, which suit the cache of a processor.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import setflow
from bench import scaling
from bench.published import PublishedEPiC
from bench.setups import FIELDS, Padded, awake, top_jets

_BATCH = 256
_PLAIN_BATCH = 128
_SAMPLING_AIMS = (1.75, 1.75, 1.5)
_TRAINING_ROUNDS = 8


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "aim"), list(zip(FIELDS, _SAMPLING_AIMS, strict=True)))
def bench_sampling(interleaved, sizes, name, aim):
    field = awake(FIELDS[name]())
    mask = top_jets(sizes.events).mask
    noise, base = torch.randn(*mask.shape, 3), setflow.StandardNormal((3,))

    @torch.no_grad()
    def sorted_by_length(steps: int = sizes.steps) -> Tensor:
        return setflow.masked_sample(field, base, setflow.Midpoint(steps), mask, x_source=noise)

    @torch.no_grad()
    def plain(steps: int = sizes.steps) -> Tensor:
        solver = setflow.Midpoint(steps)
        return torch.cat([
            setflow.masked_sample(Padded(field, part), base, solver, part, x_source=part_noise)
            for part, part_noise in zip(
                mask.split(_PLAIN_BATCH), noise.split(_PLAIN_BATCH), strict=True
            )
        ])  # fmt: skip

    agree(sorted_by_length(1), plain(1))
    interleaved(
        f"sampling, {name}: {sizes.events} top jets (mean {mask.sum(-1).float().mean():.0f} of "
        f"{mask.shape[1]}), midpoint {sizes.steps} steps",
        reference=plain,
        contender=sorted_by_length,
        objects=int(mask.sum()),
        aim=f"at least {aim}",
    )


@pytest.mark.parametrize("name", FIELDS)
def bench_training(interleaved, name):
    jets = top_jets(_BATCH * (_TRAINING_ROUNDS + 1))
    first = awake(FIELDS[name]())
    noise, t = torch.randn_like(jets.x), torch.rand(len(jets))

    def loss(field: nn.Module, start: int, *, plain: bool) -> Tensor:
        part = slice(start, start + _BATCH)
        mask = jets.mask[part]
        whole = Padded(field, mask) if plain else field
        return setflow.masked_fm_loss(whole, jets.x[part], noise[part], mask, t[part])

    def training(*, plain: bool) -> Callable[[], None]:
        field, turn = deepcopy(first), 0
        optimizer = torch.optim.AdamW(field.parameters(), lr=1e-4)

        def step() -> None:
            nonlocal turn
            optimizer.zero_grad()
            loss(field, _BATCH * turn, plain=plain).backward()
            optimizer.step()
            turn += 1

        step()  # the optimiser makes its state
        return step

    values = [loss(first, 0, plain=plain) for plain in (False, True)]
    agree(*(value.detach() for value in values))
    agree(*(gradient(value, first) for value in values))
    interleaved(
        f"training, {name}: a step on {_BATCH} top jets, in real particles per second",
        reference=training(plain=True),
        contender=training(plain=False),
        rounds=_TRAINING_ROUNDS,
        objects=int(jets.mask[_BATCH:].sum()) / _TRAINING_ROUNDS,
        aim="at least 1.5",
    )


def bench_epic_against_published(interleaved, report):
    """Different functions: ours has no weight normalisation, theirs no number of objects."""
    jets = top_jets(_BATCH)
    t, target = torch.rand(_BATCH), torch.randn_like(jets.x)
    real = jets.mask[..., None]

    def training(field: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(field.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            errors = field(jets.x, t, mask=jets.mask) - target
            (errors.square() * real).sum().div(real.sum()).backward()
            optimizer.step()

        step()
        return step

    ours, theirs = setflow.EPiCField(3), PublishedEPiC(3)
    counts = [sum(p.numel() for p in field.parameters()) for field in (ours, theirs)]
    report(
        f"parameters: EPiCField {counts[0]:,}, the published network {counts[1]:,} "
        f"({counts[0] / counts[1] - 1:+.2%}); aim: within 2% of 561,330"
    )
    interleaved(
        f"EPiCField against the published network, another function: a step on {_BATCH} jets "
        "padded to 150",
        reference=training(theirs),
        contender=training(ours),
        rounds=8,
        objects=int(jets.mask.sum()),
        aim="at least 1.3",
    )


def bench_cost_against_n(benchmark, clock, report, keep):
    costs = benchmark.pedantic(scaling.measured, args=(clock,), rounds=1)
    for cost in costs:
        report(f"cost against N, {cost.name}: {cost.text()}")
    if keep is not None:
        (keep / "cost-against-n.md").write_text(scaling.table(costs))
        scaling.picture(costs).savefig(keep / "cost-against-n.png")


def gradient(value: Tensor, field: nn.Module) -> Tensor:
    parts = torch.autograd.grad(value, list(field.parameters()))
    return torch.cat([part.flatten() for part in parts])


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Demand that values agree to 1e-5 of the largest of them."""
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)
