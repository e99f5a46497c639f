"""Estimators, fields and solvers as users hold them: used twice, wrapped, compiled, pickled."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import setflow
from laws.laws import redraw
from setflow.divergence import FixedProbeDivergence
from setflow.solvers import IntegrationError

BASE, SOLVER = setflow.StandardNormal((2,)), setflow.RK4(3)
MASKS = [torch.arange(6) < torch.tensor(n)[:, None] for n in ([6, 2, 3, 1], [1, 6, 2, 6])]


def transformer():
    return redraw(setflow.TransformerField(2, hidden=16, layers=1, heads=2)).double()


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


class Bound(nn.Module):
    """A field that was made for a context, of which it holds a row per event."""

    event_ndim = 2
    takes_mask = True

    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, x, t, c=None, *, mask=None):
        return x * self.c[..., None, :1] + torch.tanh(x.sum(-2, keepdim=True))


class Bind(setflow.LazyField):
    event_ndim = 2

    def forward(self, c=None):
        return Bound(c)


def test_given_probes_serve_another_mask():
    field, x = transformer(), torch.randn(4, 6, 2)
    probes = torch.randn(3, 4, 6, 2)
    used = FixedProbeDivergence(probes)
    for mask in MASKS:
        got, fresh = (
            setflow.masked_log_prob(field, BASE, SOLVER, x, mask, estimator=estimator)
            for estimator in (used, FixedProbeDivergence(probes))
        )
        torch.testing.assert_close(got, fresh, atol=0, rtol=0)


@pytest.mark.parametrize("renew", [False, True])
def test_the_gradient_is_that_of_the_probes_of_each_evaluation(renew):
    field, x = transformer(), torch.randn(4, 6, 2, requires_grad=True)
    estimator = setflow.HutchinsonDivergence(n_probes=2, renew=renew)

    def total(x):
        return setflow.masked_log_prob(
            field, BASE, SOLVER, x, MASKS[0], estimator=estimator, generator=generator()
        ).sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    along, step = torch.randn(4, 6, 2), 1e-5
    with torch.no_grad():
        slope = (total(x + step * along) - total(x - step * along)) / (2 * step)
    torch.testing.assert_close((gradient * along).sum(), slope, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    "estimator", [setflow.ExactDivergence(), setflow.HutchinsonDivergence()], ids=repr
)
def test_a_field_that_holds_a_context_keeps_its_events_in_order(estimator):
    lengths = torch.tensor([5, 1, 7, 2, 9, 3, 0, 4])
    x, mask, c = torch.randn(8, 12, 2), torch.arange(12) < lengths[:, None], torch.rand(8, 1)
    for model in (
        setflow.FlowMatching(Bind(), BASE, SOLVER),
        setflow.Diffusion(
            Bind(), setflow.VPSchedule(), SOLVER, parameterization="velocity", base=BASE
        ),
    ):
        for k in (1, 4, 6) if isinstance(estimator, setflow.ExactDivergence) else ():
            one = slice(k, k + 1)
            alone = model(c[one], mask=mask[one]).log_prob(x[one], estimator=estimator)
            together = model(c, mask=mask).log_prob(x, estimator=estimator)
            torch.testing.assert_close(alone[0], together[k], atol=1e-9, rtol=0)
        unplanned = FixedProbeDivergence(torch.ones(1, 8, 12, 2))
        backwards = FixedProbeDivergence(torch.ones(1, 8, 12, 2))
        flipped = model(c.flip(0), mask=mask.flip(0)).log_prob(x.flip(0), estimator=backwards)
        got = model(c, mask=mask).log_prob(x, estimator=unplanned)
        torch.testing.assert_close(got, flipped.flip(0), atol=1e-9, rtol=0)


class Wrapped(nn.Module):
    event_ndim = 2
    takes_mask = True

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t, c=None, *, mask=None):
        return self.field(x, t, c, mask=mask)


@pytest.mark.parametrize("gradients", [False, True])
def test_compiled_parts_of_a_field_run_as_they_are_written(gradients):
    field, x = transformer(), torch.randn(4, 6, 2)
    in_place = transformer()
    in_place.load_state_dict(field.state_dict())
    in_place.compile(backend="aot_eager")
    with torch.set_grad_enabled(gradients):
        expected = setflow.masked_log_prob(field, BASE, SOLVER, x, MASKS[0])
        for compiled in (Wrapped(torch.compile(field, backend="aot_eager")), in_place):
            for estimator in (None, setflow.HutchinsonDivergence(n_probes=2)):
                got = setflow.masked_log_prob(
                    compiled, BASE, SOLVER, x, MASKS[0], estimator=estimator
                )
                if estimator is None:
                    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
                if gradients:
                    got.sum().backward()


def test_scoring_in_inference_mode_leaves_nothing_behind():
    x = torch.randn(4, 6, 2)
    with torch.inference_mode():
        field = transformer()  # its weights are inference tensors
        solver = setflow.Dopri5(1e-3, 1e-3)
        inside = setflow.masked_log_prob(field, BASE, solver, x, MASKS[0])
    with torch.no_grad():
        outside = setflow.masked_log_prob(field, BASE, solver, x, MASKS[0])
    torch.testing.assert_close(inside.clone(), outside, atol=1e-9, rtol=0)
    ordinary = transformer()
    setflow.masked_log_prob(ordinary, BASE, solver, x, MASKS[0]).sum().backward()
    assert ordinary.out.weight.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo asks for it
def test_scoring_can_be_called_in_compiled_code():
    """Its graph breaks, and the numbers are the same."""
    field, x = transformer(), torch.randn(4, 6, 2)

    def score(x):
        return setflow.masked_log_prob(field, BASE, SOLVER, x, MASKS[0])

    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(score, backend="eager")(x), score(x))


def test_an_empty_batch_has_errors_of_its_shape():
    for estimator in (None, setflow.HutchinsonDivergence(n_probes=4)):
        result = setflow.masked_log_prob(
            transformer(), BASE, SOLVER, torch.randn(0, 5, 2), None, estimator=estimator,
            return_standard_error=True,
        )  # fmt: skip
        assert result.log_prob.shape == result.standard_error.shape == (0,)


def test_a_field_in_double_scores_data_in_single():
    field, x = transformer(), torch.randn(4, 6, 2, dtype=torch.float32)
    got = setflow.masked_log_prob(field, BASE, SOLVER, x, MASKS[0])
    assert got.dtype == torch.float32
    expected = setflow.masked_log_prob(field, BASE, SOLVER, x.double(), MASKS[0])
    torch.testing.assert_close(got, expected.float(), atol=0, rtol=0)


def test_a_context_that_is_not_finite_is_refused_where_it_is_used():
    class Pulled(Wrapped):
        def forward(self, x, t, c=None, *, mask=None):
            return super().forward(x, t, mask=mask) + c[..., None, :]

    field, x, c = Pulled(transformer()), torch.randn(3, 6, 2), torch.randn(3, 2)
    mask = torch.arange(6) < torch.tensor([0, 3, 6])[:, None]
    c[0] = torch.nan  # of an event without objects
    assert setflow.masked_log_prob(field, BASE, SOLVER, x, mask, c=c).isfinite().all()
    c[2, 0] = torch.inf
    with pytest.raises(ValueError, match="context c of an event with real objects holds NaN"):
        setflow.masked_log_prob(field, BASE, SOLVER, x, mask, c=c)


def test_a_standard_error_is_told_by_independent_estimates_only():
    with pytest.raises(ValueError, match="HutchinsonDivergence tells no standard error"):
        setflow.masked_log_prob(
            transformer(), BASE, SOLVER, torch.randn(4, 6, 2), None,
            estimator=setflow.HutchinsonDivergence(), return_standard_error=True,
        )  # fmt: skip


def test_a_second_derivative_is_refused():
    field, x = transformer(), torch.randn(4, 6, 2, requires_grad=True)
    divergence = setflow.ExactDivergence()(field, x, 0.5).sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(divergence, x, create_graph=True)


def test_a_mask_that_changes_later_does_not_change_the_gradient():
    field, x = transformer(), torch.randn(4, 6, 2, requires_grad=True)
    gradients = []
    for change in (False, True):
        mask = MASKS[0].clone()
        divergence = setflow.ExactDivergence()(field, x, 0.5, mask=mask).sum()
        if change:
            mask.logical_not_()
        gradients.append(torch.autograd.grad(divergence, x)[0])
    torch.testing.assert_close(*gradients, atol=0, rtol=0)


def test_an_integration_error_travels_between_processes():
    error = IntegrationError("Dopri5()", [(3,), (5,)], 0.25, "because")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.events, again.time) == (str(error), ((3,), (5,)), 0.25)
    assert "events (0,), (1,) beyond t = 0.25 because" in str(error.renamed([(0,), (1,)]))


def test_the_indices_of_events_are_checked():
    scaler = setflow.data.Standardizer(2, mean=0, std=1)
    flow = setflow.SetFlow(transformer(), scaler=scaler, features=("x", "y"))
    batch = setflow.SetBatch(torch.randn(4, 3, 2), torch.ones(4, 3))
    options = {"solver": setflow.Euler(1), "estimator": setflow.HutchinsonDivergence()}
    by_number = flow.log_prob(batch, first=7, **options)
    by_index = flow.log_prob(batch, first=torch.arange(7, 11), **options)
    torch.testing.assert_close(by_number, by_index, atol=0, rtol=0)
    for wrong in (torch.arange(5), torch.arange(4) + 0.5, torch.tensor(3)):
        with pytest.raises(ValueError, match="expected an integer, or"):
            flow.log_prob(batch, first=wrong, **options)
