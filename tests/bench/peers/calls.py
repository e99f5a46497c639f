"""Small calls: what the verbs cost above a loop by hand, with a field that costs nothing.

4 events of at most 8 objects with 3 features and a linear field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import setflow
from bench.peers.plain import LinearField, midpoint, padded_loss
from bench.peers.sampling import sampled
from bench.peers.table import Comparison, agree, repeated
from setflow.data import SetBatch

__all__ = ["comparisons"]

_SIZES = (8, 5, 3, 1)
_STEPS = 50
_MOST = {"masked_fm_loss": 1.9, "SetFlow.loss": 2.9, "masked_sample": 1.4}
_ROUNDS = 15


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer calls for a trial."""
    calls = 20 if trial else 500
    mask = torch.arange(max(_SIZES)) < torch.tensor(_SIZES)[:, None]
    x, noise, t = torch.randn(*mask.shape, 3), torch.randn(*mask.shape, 3), torch.rand(len(mask))
    field = LinearField(3)

    def bare(state: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        v: Tensor = field(state, time)
        return v

    for backward in (False, True):
        yield _per_call(
            "masked_fm_loss" + (" and its gradient" if backward else ""),
            _done(lambda: padded_loss(bare, x, noise, mask, t), backward),
            _done(lambda: setflow.masked_fm_loss(field, x, noise, mask, t), backward),
            None if backward else _MOST["masked_fm_loss"],
            calls,
        )
    yield from _of_model(field, bare, x, mask, calls)
    evaluations = 2 * _STEPS

    @torch.no_grad()
    def by_hand() -> Tensor:
        real = mask[..., None]
        return midpoint(
            lambda state, time: field(state, torch.full((len(mask),), time)) * real,
            noise * real,
            _STEPS,
        )

    def ours() -> Tensor:
        return sampled(field, noise, mask, _STEPS)

    solves = max(1, calls // evaluations)
    yield Comparison(
        f"an evaluation of masked_sample, midpoint {_STEPS} steps",
        "a loop by hand",
        repeated(by_hand, solves),
        repeated(ours, solves),
        1 / _MOST["masked_sample"],
        lambda: agree(ours(), by_hand()),
        rounds=_ROUNDS,
        calls=solves * evaluations,
    )


def _of_model(
    field: LinearField, bare: Callable[..., Tensor], x: Tensor, mask: Tensor, calls: int
) -> Iterator[Comparison]:
    """`SetFlow.loss`, which scales and draws noise and times, beside the same by hand."""
    flow = setflow.SetFlow(field)
    batch = SetBatch(x, mask)
    flow.fit_statistics(batch)
    mean, std = flow.scaler.mean.float(), flow.scaler.std.float()

    def by_hand() -> Tensor:
        z = (x - mean) / std
        noise = torch.randn(z.shape)
        return padded_loss(bare, z, noise, mask, torch.rand(len(z)))

    for backward in (False, True):
        yield _per_call(
            "SetFlow.loss" + (" and its gradient" if backward else ""),
            _done(by_hand, backward),
            _done(lambda: flow.loss(batch), backward),
            None if backward else _MOST["SetFlow.loss"],
            calls,
        )


def _done(loss: Callable[[], Tensor], backward: bool) -> Callable[[], Tensor]:
    def run() -> Tensor:
        value = loss()
        if backward:
            value.backward()
        return value

    return run


def _per_call(
    label: str,
    by_hand: Callable[[], Tensor],
    ours: Callable[[], Tensor],
    most: float | None,
    calls: int,
) -> Comparison:
    def check() -> None:
        values = []
        for side in (ours, by_hand):
            torch.manual_seed(0)
            values.append(side().detach())
        agree(*values)

    return Comparison(
        f"a call of {label}",
        "a loop by hand",
        repeated(by_hand, calls),
        repeated(ours, calls),
        None if most is None else 1 / most,
        check,
        rounds=_ROUNDS,
        calls=calls,
    )
