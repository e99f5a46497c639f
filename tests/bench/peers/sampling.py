"""Sampling: the solve from noise to jets, with the noise given.

The plain sides evaluate all slots of the padded batch, in parts that suit the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import setflow
from bench.peers import operations
from bench.peers.plain import OBJECTS, EncoderField, chunks, midpoint
from bench.peers.table import Comparison, agree
from bench.setups import FIELDS, awake, top_jets

__all__ = ["BASE", "by_flow_matching", "comparisons", "sampled", "solves"]

BASE = setflow.StandardNormal((3,))
_ADAPTIVE, _CHECKED = 1e-4, 1e-5
_EVALUATIONS = 2  # in a step of the midpoint rule

Solve = Callable[[nn.Module, Tensor, Tensor | None, int], Tensor]


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer events for a trial."""
    jets, steps = (32, 1) if trial else (256, 1)
    mask = top_jets(jets).mask
    mean = float(mask.sum(-1).float().mean())
    rule = f"{_EVALUATIONS * steps} evaluations of the midpoint rule"
    unequal = f"{jets} top jets (mean {mean:.0f}) padded to {mask.shape[1]}, {rule}"
    for name, make in FIELDS.items():
        yield solves(f"{name}: {unequal}", "the same network in a padded loop", by_hand,
                      awake(make()), mask, steps, aim=1.5)  # fmt: skip
    field = awake(setflow.TransformerField(3))
    for package, solve in (("flow_matching", by_flow_matching), ("torchdiffeq", _by_torchdiffeq)):
        yield solves(f"TransformerField: {unequal}", f"{package}, the same network padded", solve,
                      field, mask, steps, aim=1.5)  # fmt: skip
    encoder = EncoderField(field).eval()
    yield solves(f"TransformerField: {unequal}", "nn.TransformerEncoder in a padded loop", by_hand,
                  field, mask, steps, aim=None, other=encoder)  # fmt: skip
    full = torch.ones(jets, OBJECTS, dtype=torch.bool)
    equal = f"{jets} events of {OBJECTS} objects, all real, {rule}"
    for name, make in FIELDS.items():
        yield solves(f"{name}: {equal}", "the same network by hand", by_hand, awake(make()), full,
                      steps, aim=0.98)  # fmt: skip
    yield solves(f"TransformerField: {equal}", "nn.TransformerEncoder by hand", by_hand, field,
                  full, steps, aim=1.15, other=encoder)  # fmt: skip
    yield _adaptive(field, mask[: jets // 4])


def solves(
    label: str,
    against: str,
    solve: Solve,
    field: nn.Module,
    mask: Tensor,
    steps: int,
    *,
    aim: float | None,
    other: nn.Module | None = None,
) -> Comparison:
    """Return a comparison of solves; `other` is the network of the peer, if it is another one."""
    noise = torch.randn(*mask.shape, 3)
    peer = field if other is None else other
    count = _EVALUATIONS * steps
    counts = [count * operations.evaluation(net, mask) for net in (peer, field)]
    given = None if bool(mask.all()) else mask  # by hand one leaves out what says nothing

    def check() -> None:
        theirs = solve(peer, noise, given, 1) * mask[..., None]
        agree(sampled(field, noise, mask, 1), theirs)

    return Comparison(
        f"sampling, {label}",
        against,
        lambda: solve(peer, noise, given, steps),
        lambda: sampled(field, noise, mask, steps),
        aim,
        None if other is not None else check,
        (counts[0], counts[1]),
        rounds=11 if given is None else 5,  # more where both sides are nearly equal
    )


@torch.no_grad()
def sampled(field: nn.Module, noise: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Return samples of setflow."""
    return setflow.masked_sample(field, BASE, setflow.Midpoint(steps), mask, x_source=noise)


def _parts(noise: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    if mask is None:
        return [(part, None) for (part,) in chunks(noise)]
    return [(part, part_mask) for part, part_mask in chunks(noise, mask)]


def _called(net: nn.Module, x: Tensor, t: float | Tensor, mask: Tensor | None) -> Tensor:
    times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
    v: Tensor = net(x, times) if mask is None else net(x, times, mask=mask)
    return v


@torch.no_grad()
def by_hand(net: nn.Module, noise: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """Return samples of a loop by hand."""
    return torch.cat([
        midpoint(lambda x, t, m=part_mask: _called(net, x, t, m), part, steps)
        for part, part_mask in _parts(noise, mask)
    ])  # fmt: skip


def by_flow_matching(net: nn.Module, noise: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """Return samples of flow_matching, where t = 1 is data and the velocity points to them."""
    from flow_matching.solver import ODESolver

    ends = []
    for part, part_mask in _parts(noise, mask):
        solver = ODESolver(lambda x, t, m=part_mask: -_called(net, x, 1 - t, m))
        ends.append(solver.sample(part, step_size=1 / steps, method="midpoint"))
    return torch.cat(ends)


@torch.no_grad()
def _by_torchdiffeq(
    net: nn.Module, noise: Tensor, mask: Tensor | None, steps: int, **options: Any
) -> Tensor:
    from torchdiffeq import odeint

    if steps:
        options = {"method": "midpoint", "options": {"step_size": 1 / steps}}
    ends, times = [], torch.tensor([1.0, 0.0])
    for part, part_mask in _parts(noise, mask):
        path = odeint(lambda t, x, m=part_mask: _called(net, x, t, m), part, times, **options)
        ends.append(path[-1])
    return torch.cat(ends)


def _adaptive(field: nn.Module, mask: Tensor) -> Comparison:
    """Both choose their steps: setflow one size for each event, torchdiffeq one for the batch."""
    noise = torch.randn(*mask.shape, 3)

    @torch.no_grad()
    def ours(tolerance: float = _ADAPTIVE) -> Tensor:
        solver = setflow.Dopri5(rtol=tolerance, atol=tolerance)
        return setflow.masked_sample(field, BASE, solver, mask, x_source=noise)

    def theirs(tolerance: float = _ADAPTIVE) -> Tensor:
        options = {"method": "dopri5", "rtol": tolerance, "atol": tolerance}
        return _by_torchdiffeq(field, noise, mask, 0, **options)

    return Comparison(
        f"sampling, TransformerField: {len(mask)} top jets padded to {mask.shape[1]}, dopri5 at "
        f"{_ADAPTIVE:g}, each with its own steps",
        "torchdiffeq, the same network padded",
        theirs,
        ours,
        None,
        lambda: agree(ours(_CHECKED), theirs(_CHECKED) * mask[..., None], 100 * _CHECKED),
        rounds=3,
    )
