"""What a likelihood costs, against plain references on the same inputs.

The plain exact divergence is a Python loop of one reverse pass per padded coordinate with PyTorch's
own choice of kernels, the velocity evaluated apart. Contender and reference agree to 1e-5 first and
run in turn, with equal threads and dtype.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import setflow
from bench.setups import plain_divergence
from setflow.data import SetBatch, read_jets

SAMPLE = Path(__file__).resolve().parents[2] / "datasets/pythia-top/heldout.h5"
T = 0.5


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


@pytest.fixture
def jets() -> SetBatch:
    batch = read_jets(SAMPLE, stop=64).particles
    slots = 150 - batch.x.shape[1]
    x = torch.nn.functional.pad(batch.x, (0, 0, 0, slots))
    return SetBatch(x, torch.nn.functional.pad(batch.mask, (0, slots)))


@pytest.fixture
def field() -> setflow.TransformerField:
    model = setflow.TransformerField(3, hidden=64, layers=2)
    with torch.no_grad():
        for weight in model.parameters():  # a field whose gates are closed mixes nothing
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def bench_exact_divergence(interleaved, jets, field):
    estimator = setflow.ExactDivergence()

    def planned():
        with torch.no_grad():
            return estimator.velocity_and_divergence(field, jets.x, T, mask=jets.mask)

    for ours, theirs in zip(planned(), plain_divergence(field, jets.x, T, jets.mask), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)
    ratio = interleaved(
        f"exact divergence, 64 top jets padded to 150 (mean {jets.lengths.float().mean():.0f})",
        reference=lambda: plain_divergence(field, jets.x, T, jets.mask),
        contender=planned,
        aim="at least 3",
    )
    assert ratio > 1


def bench_hutchinson(interleaved, jets, field):
    estimator = setflow.HutchinsonDivergence()
    t = torch.full((len(jets),), T)

    def one_probe():
        with torch.no_grad():
            return estimator.velocity_and_divergence(field, jets.x, t, mask=jets.mask)

    def velocity():
        with torch.no_grad():
            return field(jets.x, t, mask=jets.mask)

    torch.testing.assert_close(one_probe()[0], velocity(), atol=1e-5, rtol=1e-5)
    interleaved(
        "Hutchinson with one probe, the same jets; the reference is one evaluation of the field",
        reference=velocity,
        contender=one_probe,
        aim="at least 1 / 3.5 = 0.29",
        rounds=20,
    )


@pytest.mark.parametrize("mebibytes", [16, 32, 64])
def bench_peak_memory(benchmark, report, jets, field, mebibytes):
    """The peak of a shortened evaluation: memory does not grow with the number of coordinates."""
    x, mask = jets.x[:, :40], jets.mask[:, :40]
    estimator = setflow.ExactDivergence(memory=mebibytes * 2**20)

    def evaluate():
        with torch.no_grad():
            return estimator.velocity_and_divergence(field, x, T, mask=mask)

    peak = peak_memory(evaluate)
    share = peak / estimator.memory
    report(f"peak memory of the exact divergence, budget {mebibytes} MiB: {share:.2f} of it")
    assert share < 1.2
    benchmark.pedantic(evaluate, rounds=1)


def peak_memory(function) -> int:
    """Return the most bytes that were allocated at a time while `function` ran, on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak
