"""Training: a step of AdamW on a batch, loss, gradient and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

import setflow
from bench.peers import operations
from bench.peers.plain import OBJECTS, EncoderField, full_events, loss_at, padded_loss
from bench.peers.table import Comparison, agree
from bench.published import PublishedEPiC
from bench.setups import FIELDS, awake, top_jets
from setflow.data import SetBatch

__all__ = ["comparisons"]

_ROUNDS, _FULL_ROUNDS = 7, 11  # the second compares what is nearly equal
_PADDED_LOOP = "the same network in a padded loop"
_AIMS = dict(zip(FIELDS, (1.65, 1.65, 1.65), strict=True))

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]


def comparisons(*, trial: bool) -> Iterator[Comparison]:
    """Yield what is compared; fewer events for a trial."""
    batch = 16 if trial else 128
    jets = top_jets(batch * (_ROUNDS + 1))
    unequal = f"a step on {batch} top jets (mean {_mean(jets):.0f}) padded to {jets.x.shape[1]}"
    for name, make in FIELDS.items():
        yield _steps(f"{name}: {unequal}", _PADDED_LOOP, padded_loss, awake(make()), jets, batch,
                     aim=_AIMS[name])  # fmt: skip
    field = awake(setflow.TransformerField(3))
    for package, loss in (("flow_matching", _by_flow_matching), ("torchcfm", _by_torchcfm)):
        against = f"the path of {package}, {_PADDED_LOOP}"
        yield _steps(f"TransformerField: {unequal}", against, loss, field, jets, batch, aim=1.65)
    epic = awake(setflow.EPiCField(3))
    yield _steps(f"EPiCField: {unequal}", "the published network in a padded loop", padded_loss,
                 epic, jets, batch, aim=2.1, other=PublishedEPiC(3))  # fmt: skip
    encoder = EncoderField(field)
    yield _steps(f"TransformerField: {unequal}", "nn.TransformerEncoder in a padded loop",
                 padded_loss, field, jets, batch, aim=None, other=encoder)  # fmt: skip
    full = full_events(batch * (_FULL_ROUNDS + 1), OBJECTS)
    equal = f"a step on {batch} events of {OBJECTS} objects, all real"
    for name, make in FIELDS.items():
        yield _steps(f"{name}: {equal}", "the same network by hand", _full_loss, awake(make()),
                     full, batch, aim=0.98)  # fmt: skip
    yield _steps(f"TransformerField: {equal}", "nn.TransformerEncoder by hand", _full_loss, field,
                 full, batch, aim=1.0, other=encoder)  # fmt: skip
    yield from _compiled(field, full, batch, equal)


def _compiled(field: nn.Module, full: SetBatch, batch: int, equal: str) -> Iterator[Comparison]:
    """Both sides compiled: once the same network, once that of PyTorch."""
    for against, other in (
        ("the same network by hand, compiled", None),
        ("nn.TransformerEncoder by hand, compiled", EncoderField(field)),
    ):
        yield _steps(f"TransformerField under torch.compile: {equal}", against, _full_loss, field,
                     full, batch, aim=None, other=other, compiled=True)  # fmt: skip


def _mean(jets: SetBatch) -> float:
    return float(jets.lengths.float().mean())


def _steps(
    label: str,
    against: str,
    loss: Loss,
    field: nn.Module,
    data: SetBatch,
    batch: int,
    *,
    aim: float | None,
    other: nn.Module | None = None,
    compiled: bool = False,
) -> Comparison:
    """Return a comparison of steps; `other` is the network of the peer, if it is another one."""
    noise, t = torch.randn_like(data.x), torch.rand(len(data))
    peer = field if other is None else other

    def value(net: nn.Module, chosen: Loss, start: int) -> Tensor:
        part = slice(start, start + batch)
        return chosen(net, data.x[part], noise[part], data.mask[part], t[part])

    def training(net: nn.Module, chosen: Loss) -> Callable[[], None]:
        net, turn = deepcopy(net), 0
        called = torch.compile(net) if compiled else net
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

        def step() -> None:
            nonlocal turn
            optimizer.zero_grad()
            value(called, chosen, batch * turn % len(data)).backward()
            optimizer.step()
            turn += 1

        return step

    def check() -> None:
        ours, theirs = value(field, setflow.masked_fm_loss, 0), value(peer, loss, 0)
        agree(ours.detach(), theirs.detach())
        agree(_gradient(ours, field), _gradient(theirs, peer))

    share = batch / len(data)
    counts = [share * operations.training(net, data.mask) for net in (peer, field)]
    return Comparison(
        f"training, {label}", against, training(peer, loss),
        training(field, setflow.masked_fm_loss), aim,
        None if other is not None else check, (counts[0], counts[1]),
        len(data) // batch - 1,
    )  # fmt: skip


def _gradient(value: Tensor, net: nn.Module) -> Tensor:
    parts = torch.autograd.grad(value, list(net.parameters()))
    return torch.cat([part.flatten() for part in parts])


def _full_loss(net: nn.Module, x: Tensor, noise: Tensor, mask: Tensor, t: Tensor) -> Tensor:
    return padded_loss(net, x, noise, None, t)


def _by_flow_matching(net: nn.Module, x: Tensor, noise: Tensor, mask: Tensor, t: Tensor) -> Tensor:
    from flow_matching.path import CondOTProbPath

    # there t = 1 is data, and the velocity points to them
    sample = CondOTProbPath().sample(x_0=noise, x_1=x, t=1 - t)
    return loss_at(net, sample.x_t, -sample.dx_t, mask, 1 - sample.t)


def _by_torchcfm(net: nn.Module, x: Tensor, noise: Tensor, mask: Tensor, t: Tensor) -> Tensor:
    from torchcfm import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)
    time, x_t, u_t = matcher.sample_location_and_conditional_flow(noise, x, t=1 - t)
    return loss_at(net, x_t, -u_t, mask, 1 - time)
