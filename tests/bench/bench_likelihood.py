"""What a likelihood costs, against plain references on the same inputs.

The plain exact divergence is a Python loop of one reverse pass per padded coordinate with PyTorch's
own choice of kernels, the velocity evaluated apart. That of flow_matching (if it is installed, with
torchdiffeq) is its `compute_likelihood` with one probe on the padded jets. Contender and reference
agree to 1e-5 first and run in turn, with equal threads and dtype.
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
    return some_jets(150)


def some_jets(most: int) -> SetBatch:
    """Return 64 top jets of at most so many particles, padded to that."""
    batch = read_jets(SAMPLE, stop=64, max_objects=most).particles
    slots = most - batch.x.shape[1]
    x = torch.nn.functional.pad(batch.x, (0, 0, 0, slots))
    return SetBatch(x, torch.nn.functional.pad(batch.mask, (0, slots)))


@pytest.fixture
def field() -> setflow.TransformerField:
    return transformer(layers=2)


def transformer(layers: int) -> setflow.TransformerField:
    model = setflow.TransformerField(3, hidden=64, layers=layers)
    with torch.no_grad():
        for weight in model.parameters():  # a field whose gates are closed mixes nothing
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize(
    ("most", "layers", "aim"),
    [(150, 2, "at least 3"), (30, 4, "at least 1.8; never slower")],
)
def bench_exact_divergence(interleaved, most, layers, aim):
    jets, field = some_jets(most), transformer(layers)
    estimator = setflow.ExactDivergence()

    def planned():
        with torch.no_grad():
            return estimator.velocity_and_divergence(field, jets.x, T, mask=jets.mask)

    for ours, theirs in zip(planned(), plain_divergence(field, jets.x, T, jets.mask), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)
    ratio = interleaved(
        f"exact divergence, {layers} layers, 64 top jets padded to {most} "
        f"(mean {jets.lengths.float().mean():.0f})",
        reference=lambda: plain_divergence(field, jets.x, T, jets.mask),
        contender=planned,
        aim=aim,
    )
    assert ratio > 0.9


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


@pytest.mark.parametrize("most", [150, 30])
def bench_hutchinson_against_flow_matching(interleaved, most):
    solvers = pytest.importorskip("flow_matching.solver", reason="flow_matching is not installed")
    jets, field, steps = some_jets(most), transformer(4), 1
    base, solver = setflow.StandardNormal((3,)), setflow.Midpoint(steps)
    x = jets.x * jets.mask[..., None]

    def theirs():
        torch.manual_seed(1)
        backwards = solvers.ODESolver(  # there t = 1 is data
            lambda x, t: -field(x, (1 - t).expand(len(x)), mask=jets.mask)
        )
        return backwards.compute_likelihood(
            x, lambda z: base.log_prob(z, mask=jets.mask), 1 / steps, method="midpoint"
        )[1]

    def ours(estimator=setflow.HutchinsonDivergence()):  # noqa: B008
        with torch.no_grad():
            return setflow.masked_log_prob(
                field, base, solver, jets.x, jets.mask, estimator=estimator
            )

    expected = theirs()
    torch.manual_seed(1)
    probes = (torch.randn_like(x) < 0) * 2.0 - 1.0
    found = ours(setflow.divergence.FixedProbeDivergence(probes[None]))
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    interleaved(
        f"log p with one probe against flow_matching, 4 layers, 64 top jets padded to {most} "
        f"(mean {jets.lengths.float().mean():.0f}), one step of midpoint",
        reference=theirs,
        contender=ours,
        aim="at least 1.2",
        rounds=9,
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
