"""The event coupling: the least cost by brute force, what stays as it is, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import kstest

import setflow
from each import each
from laws.laws import cases, masks, redraw
from recorders import Constant
from setflow.couplings import coupled_noise
from setflow.sets.events import Events


def drawn(mask, features=3, seed=0):
    """Objects and noise, with NaN in the padding of both."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*mask.shape, features)
    x, e = (torch.randn(shape, generator=generator) for _ in range(2))
    return (torch.where(mask[..., None], value, torch.nan) for value in (x, e))


def coupled(x, e, mask, c=None):
    events = Events.of(2, x, mask, c=c)
    return coupled_noise(events, events.noise(e, "x_source"), "event")


def least(x, e, kinds=None):
    """The noise of one event at the least sum of squared distances, over all permutations."""
    orders = itertools.permutations(range(len(x)))
    if kinds is not None:
        orders = (
            order for order in orders if all(kinds[i] == kinds[j] for i, j in enumerate(order))
        )
    return e[list(min(orders, key=lambda order: ((x - e[list(order)]) ** 2).sum().item()))]


@each("lead", ["lead0", "lead1", "lead2"])
def test_the_assignment_is_the_best_of_all_permutations(lead):
    mask = masks()[lead]
    x, e = drawn(mask)
    got = coupled(x, e, mask).reshape(-1, *x.shape[-2:])
    moved = 0
    for event, noise, pair, real in zip(
        x.reshape(got.shape), e.reshape(got.shape), got, mask.reshape(got.shape[:2]), strict=True
    ):
        assert torch.equal(pair[real], least(event[real], noise[real]))
        assert not pair[~real].any()
        moved += not torch.equal(pair[real], noise[real])
    assert moved or lead == "lead0"


def test_the_features_of_an_object_may_have_two_dimensions():
    x, e = torch.randn(2, 4, 2, 3), torch.randn(2, 4, 2, 3)
    got = coupled_noise(Events.of(3, x, None), e, "event")
    for k in range(2):
        assert torch.equal(got[k], least(x[k], e[k]))


def test_objects_exchange_noise_only_with_those_of_equal_context():
    mask = masks()["lead1"]
    x, e = drawn(mask)
    kinds = torch.randint(0, 2, mask.shape, generator=torch.Generator().manual_seed(4))
    c = torch.where(mask, kinds, torch.nan)[..., None].expand(*mask.shape, 2)
    got = coupled(x, e, mask, c)
    for k, real in enumerate(mask):
        assert torch.equal(got[k][real], least(x[k][real], e[k][real], kinds[k][real].tolist()))
    assert not torch.equal(got[mask], coupled(x, e, mask)[mask])


def test_objects_that_all_differ_in_context_cannot_be_coupled():
    x, e = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match="no two of an event have the same"):
        coupled(x, e, None, torch.randn(2, 4, 1))
    one = torch.tensor([[True, False, False, False]] * 2)  # nothing to exchange, nothing to refuse
    assert torch.equal(coupled(x, e, one, torch.randn(2, 4, 1))[one], e[one])


def test_the_loss_knows_no_order_of_the_objects_nor_of_the_noise():
    field = redraw(setflow.TransformerField(3, hidden=16, layers=1, heads=2))
    case = dict(cases())["lead1"]
    order = torch.randperm(case.mask.shape[-1], generator=torch.Generator().manual_seed(2))

    def loss(x, e, mask):
        return setflow.masked_fm_loss(field, x, e, mask, case.t, coupling="event", reduction="none")

    full = torch.ones_like(case.mask)
    expected = loss(case.x, case.x_source, full)
    torch.testing.assert_close(loss(case.x, case.x_source[:, order], full), expected)
    torch.testing.assert_close(loss(case.x[:, order], case.x_source, full), expected)
    plain = setflow.masked_fm_loss(field, case.x, case.x_source, full, case.t, reduction="none")
    assert (plain - expected).abs().max() > 1e-3


def test_the_noise_of_exchangeable_objects_stays_independent_and_normal():
    """In every slot and between slots: the coupled noise is a permutation of what was drawn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, 1, generator=generator) ** 3
    e = torch.randn(4000, 3, 1, generator=generator)
    got = coupled(x, e, None)[..., 0]
    assert torch.equal(got.sort(-1)[0], e[..., 0].sort(-1)[0])
    for slot in range(3):
        assert kstest(got[:, slot].numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(got.T) - torch.eye(3)
    assert correlation.abs().max() < 4 / 4000**0.5
    with_x = torch.corrcoef(torch.stack([x.flatten().sign(), got.flatten()]))[0, 1]
    assert with_x > 0.3  # and is coupled


def test_paths_get_shorter():
    x, e = torch.randn(64, 20, 3), torch.randn(64, 20, 3)
    assert ((coupled(x, e, None) - x) ** 2).mean() < 0.6 * ((e - x) ** 2).mean()


@each("verb", [setflow.fm_loss, setflow.stochastic_fm_loss])
def test_losses_of_events_without_a_mask_take_it_too(verb):
    field, seed = Constant(), torch.Generator
    x, e, t = torch.randn(8, 5, 2), torch.randn(8, 5, 2), torch.rand(8)
    order = coupled_noise(Events.of(2, x, None), e, "event")
    got = verb(field, x, e, t, coupling="event", generator=seed().manual_seed(1))
    assert got == verb(field, x, order, t, generator=seed().manual_seed(1))


def test_gradients_pass_to_the_noise_as_it_was_given():
    x, e = torch.zeros(1, 2, 1), torch.tensor([[[4.0], [1.0]]], requires_grad=True)
    x[0, 1] = 5.0
    (coupled(x, e, None) * torch.tensor([[[1.0], [10.0]]])).sum().backward()
    assert e.grad.flatten().tolist() == [10.0, 1.0]


@each(
    ("call", "message"),
    [
        (
            lambda x: setflow.masked_fm_loss(Constant(), x, x, None, coupling="batch"),
            "coupling is 'batch', expected 'event'",
        ),
        (
            lambda x: setflow.fm_loss(setflow.VelocityField(3), x, x, coupling="event"),
            "event_ndim=1, one object per event; leave it out",
        ),
        (
            lambda x: torch.func.vmap(
                lambda one: setflow.masked_fm_loss(
                    Constant(), one, one, None, 0.5, coupling="event"
                )
            )(x[:, None]),
            "inside of torch.func.vmap",
        ),
        (
            lambda x: setflow.masked_fm_loss(Constant(), x / 0, x, None, coupling="event"),
            r"for x_target\[0, 0, 0\] is inf",
        ),
    ],
)
def test_what_cannot_be_coupled_is_refused(call, message):
    with pytest.raises(ValueError, match="(?s)" + message):
        call(torch.ones(2, 4, 3))


def test_a_model_couples_in_the_scaled_features_and_its_density_stays():
    field = redraw(setflow.TransformerField(2, hidden=16, layers=1, heads=2))
    flow = setflow.SetFlow(
        field, features=["x", "y"], schema=None, cardinality=setflow.EmpiricalCardinality(5)
    )
    mask = torch.arange(5) < torch.randint(0, 6, (50, 1))
    jets = setflow.SetBatch(torch.randn(50, 5, 2) * torch.tensor([1.0, 1000.0]), mask)
    flow.fit_statistics(jets)
    t, noise = torch.rand(50), torch.randn(50, 5, 2)
    before = flow.log_prob(jets, solver=setflow.Midpoint(2)).detach()
    z = flow.scaler(jets.x, mask)
    expected = setflow.masked_fm_loss(field, z, noise, mask, t, coupling="event")
    torch.testing.assert_close(flow.loss(jets, t=t, noise=noise, coupling="event"), expected)
    assert flow.loss(jets, t=t, noise=noise) != expected
    assert torch.equal(flow.log_prob(jets, solver=setflow.Midpoint(2)), before)
