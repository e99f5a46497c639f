"""Likelihood: log p of jets of at most 30 particles, exactly and by one probe, Euler's rule.

The peers get the events as vectors of 90 numbers, which is what they take.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import setflow
from bench.peers import operations
from bench.peers.plain import hardest_jets, log_normal, plain_log_prob
from bench.peers.sampling import BASE
from bench.peers.table import Comparison, agree
from bench.setups import awake, top_jets
from setflow.data import SetBatch
from setflow.divergence import DivergenceEstimator, FixedProbeDivergence
from setflow.solvers.fixed import FixedStepSolver

__all__ = ["comparisons"]

_PARTICLES = 30
_PASSED = {"rtol": 0.5, "atol": 1e6}  # tolerances that every step passes
_SEED = 1


class _DormandPrince(FixedStepSolver):
    """The seven evaluations of a step of dopri5, whatever its error."""

    order = 5
    nodes = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    weights = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
    rows = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        weights[:-1],
    )


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer events for a trial."""
    field, steps = awake(setflow.TransformerField(3)), 1
    jets = hardest_jets(4 if trial else 32, _PARTICLES)
    exact = operations.exact_divergence(field, jets.mask)
    yield Comparison(
        f"exact log p, TransformerField: {len(jets)} {_of(jets)}, an evaluation",
        "the same network, a loop of reverse passes",
        lambda: plain_log_prob(field, jets.x, jets.mask, steps),
        lambda: _log_prob(field, jets, steps),
        1.8,
        lambda: agree(
            _log_prob(field, jets, steps), plain_log_prob(field, jets.x, jets.mask, steps)
        ),
        (steps * exact, steps * exact),
        share_aim=0.4,
    )
    yield _exact_of_flow_matching(field, _first(jets, 2 if trial else 8), steps)
    yield _exact_of_zuko(field, _first(jets, 1 if trial else 4))
    jets = hardest_jets(8 if trial else 256, _PARTICLES)
    yield _hutchinson(field, jets, 4, aim=1.2)
    yield _hutchinson(field, top_jets(4 if trial else 64), 4, aim=1.2)


def _of(jets: SetBatch) -> str:
    return f"top jets (mean {jets.lengths.float().mean():.0f}) padded to {jets.x.shape[1]}"


def _first(jets: SetBatch, count: int) -> SetBatch:
    return SetBatch(jets.x[:count], jets.mask[:count])


@torch.no_grad()
def _log_prob(
    field: nn.Module, jets: SetBatch, steps: int, estimator: DivergenceEstimator | None = None
) -> Tensor:
    return setflow.masked_log_prob(
        field, BASE, setflow.Euler(steps), jets.x, jets.mask, estimator=estimator
    )


def _by_flow_matching(field: nn.Module, jets: SetBatch, steps: int, *, exact: bool) -> Tensor:
    """Return the log-density of flow_matching, where t = 1 is data."""
    from flow_matching.solver import ODESolver

    shape, mask = jets.x.shape, jets.mask

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return -field(x.view(shape), (1 - t).expand(shape[0]), mask=mask).flatten(1)

    selected = (jets.x * mask[..., None]).flatten(1)
    _, log_p = ODESolver(velocity).compute_likelihood(
        selected, lambda z: log_normal(z.view(shape), mask), step_size=1 / steps, method="euler",
        exact_divergence=exact,
    )  # fmt: skip
    return log_p


def _exact_of_flow_matching(field: nn.Module, jets: SetBatch, steps: int) -> Comparison:
    count = steps * operations.exact_divergence(field, jets.mask)

    def theirs() -> Tensor:
        return _by_flow_matching(field, jets, steps, exact=True)

    return Comparison(
        f"exact log p, TransformerField: {len(jets)} {_of(jets)}, an evaluation",
        "flow_matching, the same network padded",
        theirs,
        lambda: _log_prob(field, jets, steps),
        1.8,
        lambda: agree(_log_prob(field, jets, steps), theirs()),
        (count, count),
        rounds=3,
    )


def _hutchinson(field: nn.Module, jets: SetBatch, steps: int, *, aim: float) -> Comparison:
    count = steps * operations.one_probe(field, jets.mask)

    def theirs() -> Tensor:
        return _by_flow_matching(field, jets, steps, exact=False)

    def check() -> None:
        torch.manual_seed(_SEED)
        expected = theirs()
        torch.manual_seed(_SEED)  # the probe that it drew
        probe = (torch.randn(len(jets), jets.x[0].numel()) < 0) * 2.0 - 1.0
        given = FixedProbeDivergence(probe.view(1, *jets.x.shape))
        agree(_log_prob(field, jets, steps, given), expected)

    return Comparison(
        f"log p by one probe of Hutchinson, TransformerField: {len(jets)} {_of(jets)}, {steps} "
        "evaluations",
        "flow_matching, the same network padded",
        theirs,
        lambda: _log_prob(field, jets, steps, setflow.HutchinsonDivergence()),
        aim,
        check,
        (count, count),
    )


def _exact_of_zuko(field: nn.Module, jets: SetBatch) -> Comparison:
    """One step of the same tableau: in choosing steps the two do not measure errors alike."""
    from zuko.transforms import FreeFormJacobianTransform

    shape, mask = jets.x.shape, jets.mask
    count = 7 * operations.exact_divergence(field, mask)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return field(x.view(shape), t.expand(shape[0]), mask=mask).flatten(1)

    selected = (jets.x * mask[..., None]).flatten(1)

    @torch.no_grad()
    def theirs() -> Tensor:
        with warnings.catch_warnings():  # the reverse pass of fused attention has no batching rule
            warnings.simplefilter("ignore")
            z, log_det = FreeFormJacobianTransform(velocity, **_PASSED).call_and_ladj(selected)
        return log_normal(z.view(shape), mask) + log_det

    @torch.no_grad()
    def ours() -> Tensor:
        return setflow.masked_log_prob(field, BASE, _DormandPrince(1), jets.x, mask)

    return Comparison(
        f"exact log p, TransformerField: {len(jets)} {_of(jets)}, one step of "
        "dopri5 (7 evaluations)",
        "zuko, the same network padded",
        theirs,
        ours,
        1.0,
        lambda: agree(ours(), theirs()),
        (count, count),
        rounds=3,
    )
