"""Broken twins. Each makes a mistake that is easy to make and hard to see; the laws must see it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import setflow
from setflow.couplings import coupled_noise
from setflow.divergence import DivergenceEstimator
from setflow.paths import LinearPath
from setflow.sets.events import Events, call_field


def _pieces(field, x_target, x_source, mask, t, c):
    """Interpolate and call the field as a library without a law of the mask would."""
    path = LinearPath()
    x_t, u_t = path.sample_xt(x_target, x_source, t), path.target_ut(x_target, x_source, t)
    takes_mask = getattr(field, "takes_mask", False)
    v_t = field(x_t, t, c, mask=mask) if takes_mask else field(x_t, t, c)
    return v_t, u_t


def loss_multiplies(field, x_target, x_source, mask, t, c=None, *, reduction="none") -> Tensor:
    """Multiplies by the mask instead of selecting: 0 * nan is nan."""
    mask = torch.ones(x_target.shape[:-1], dtype=torch.bool) if mask is None else mask
    weight = mask[..., None].to(x_target.dtype)
    v_t, u_t = _pieces(field, x_target * weight, x_source * weight, mask, t, c)
    errors = ((v_t - u_t) * weight) ** 2
    return errors.mean(-1).sum(-1) / mask.sum(-1).clamp(min=1)


def loss_means_over_slots(
    field, x_target, x_source, mask, t, c=None, *, reduction="none"
) -> Tensor:
    """Selects, but divides by the number of slots."""
    mask = torch.ones(x_target.shape[:-1], dtype=torch.bool) if mask is None else mask
    zero = x_target.new_zeros(())
    x_target, x_source = (torch.where(mask[..., None], x, zero) for x in (x_target, x_source))
    v_t, u_t = _pieces(field, x_target, x_source, mask, t, c)
    return (torch.where(mask[..., None], v_t - u_t, zero) ** 2).mean((-1, -2))


def loss_reads_first_slots(
    field, x_target, x_source, mask, t, c=None, *, reduction="none"
) -> Tensor:
    """Takes the first sum(mask) slots for the real ones: wrong with holes."""
    if mask is not None:
        slots = torch.arange(mask.shape[-1], device=mask.device)
        mask = slots < mask.sum(-1, keepdim=True)
    return setflow.masked_fm_loss(field, x_target, x_source, mask, t, c, reduction="none")


def loss_divides_by_count(
    field, x_target, x_source, mask, t, c=None, *, reduction="none"
) -> Tensor:
    """Divides by the number of real objects without a thought for empty events: 0 / 0."""
    loss = setflow.masked_fm_loss(field, x_target, x_source, mask, t, c, reduction="none")
    return loss if mask is None else loss * mask.sum(-1) / mask.sum(-1)


def loss_counts_one_more(field, x_target, x_source, mask, t, c=None, *, reduction="none") -> Tensor:
    """Guards an empty event by adding one to every count."""
    loss = setflow.masked_fm_loss(field, x_target, x_source, mask, t, c, reduction="none")
    return loss if mask is None else loss * mask.sum(-1) / (mask.sum(-1) + 1)


def loss_weighs_by_company(
    field, x_target, x_source, mask, t, c=None, *, reduction="none"
) -> Tensor:
    """Divides by the mean cardinality of the batch."""
    loss = setflow.masked_fm_loss(field, x_target, x_source, mask, t, c, reduction="none")
    if mask is None:
        return loss
    n = mask.sum(-1).to(loss.dtype)
    return loss * n / n.mean().clamp(min=1)


def loss_couples_padding(field, x_target, x_source, mask, t, c=None, *, reduction="none") -> Tensor:
    """Pairs objects with the noise of padded slots, too."""
    mask = torch.ones(x_target.shape[:-1], dtype=torch.bool) if mask is None else mask
    x_target, x_source = (x.where(mask[..., None], 0) for x in (x_target, x_source))
    everything = Events.of(field, x_target, None)
    x_source = coupled_noise(everything, x_source, "event")
    return setflow.masked_fm_loss(field, x_target, x_source, mask, t, c, reduction="none")


def sample_starts_from_garbage(field, base, solver, mask, *, c=None, x_source) -> Tensor:
    """Masks the result but not the noise: padding moves real objects during the solve."""
    lead = x_source.shape[:-2]

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.full(lead, t, dtype=x.dtype)
        if getattr(field, "takes_mask", False):
            return field(x, time, c, mask=mask)
        return field(x, time, c)

    x = solver.integrate(velocity, x_source, t0=1.0, t1=0.0)
    return x if mask is None else torch.where(mask[..., None], x, x.new_zeros(()))


class UnmaskedAttention(nn.Module):
    """Takes the mask, and attends to padding all the same."""

    event_ndim = 2
    takes_mask = True

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 9)

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        if mask is not None:
            x = torch.where(mask[..., None], x, x.new_zeros(()))
        q, k, v = self.qkv(x).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed if mask is None else torch.where(mask[..., None], mixed, x.new_zeros(()))


class OrderedField(nn.Module):
    """Knows the position of each object in the list."""

    event_ndim = 2
    takes_mask = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        position = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
        v = self.weight * position * x
        return v if mask is None else torch.where(mask[..., None], v, x.new_zeros(()))


def log_prob_with_padding_in_the_base(
    field, base, solver, x, mask, *, c=None, estimator=None
) -> Tensor:
    """Carries real objects to the noise, then counts the base's density of every slot."""
    log_p = setflow.masked_log_prob(field, base, solver, x, mask, c=c, estimator=estimator)
    if mask is None:
        return log_p
    padded = (~mask).sum(-1) * x.shape[-1]  # coordinates, zero at the end of the flow
    return log_p - 0.5 * math.log(2 * math.pi) * padded


def log_prob_per_object(field, base, solver, x, mask, *, c=None, estimator=None) -> Tensor:
    """Divides by the number of objects, as a mean loss does: 0 / 0 in an empty event."""
    log_p = setflow.masked_log_prob(field, base, solver, x, mask, c=c, estimator=estimator)
    return log_p if mask is None else log_p / mask.sum(-1)


def log_prob_over_padding(x: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Zeroes the padding, then counts its log-density all the same."""
    if mask is not None:
        x = torch.where(mask[..., None], x, x.new_zeros(()))
    return (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum((-1, -2))


def scored_sample_with_padding_in_the_base(field, base, solver, mask, **options):
    """Counts the base's density of every slot of the noise."""
    x, log_p = setflow.masked_sample(field, base, solver, mask, return_log_prob=True, **options)
    if mask is None:
        return x, log_p
    padded = (~mask).sum(-1) * math.prod(x.shape[mask.ndim :])
    return x, log_p - 0.5 * math.log(2 * math.pi) * padded


def scored_sample_with_the_wrong_sign(field, base, solver, mask, *, x_source, **options):
    """Collects the divergence on the way from noise to data as on the way back."""
    x, log_p = setflow.masked_sample(
        field, base, solver, mask, x_source=x_source, return_log_prob=True, **options
    )
    at_the_noise = base.log_prob(x_source, mask=mask.expand(x_source.shape[:-1]))
    return x, 2 * at_the_noise - log_p


class WrongSign(DivergenceEstimator):
    """The sign that documents of other libraries print."""

    def velocity_and_divergence(self, field, x, t, c=None, *, mask=None):
        v, divergence = setflow.ExactDivergence().velocity_and_divergence(field, x, t, c, mask=mask)
        return v, -divergence


class CrossObjectTrace(DivergenceEstimator):
    """Sums d v_i / d x_j over all pairs of objects instead of the diagonal."""

    def velocity_and_divergence(self, field, x, t, c=None, *, mask=None):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = call_field(field, x, t, c, mask)
            total = torch.zeros(x.shape[:-2])
            for feature in range(x.shape[-1]):
                out = v[..., feature].sum()
                (gradient,) = torch.autograd.grad(out, x, retain_graph=True)
                total = total + gradient[..., feature].sum(-1)
        return v.detach(), total


class NearestNeighbour(nn.Module):
    """Pulls every object towards its nearest neighbour, and jumps where another becomes nearest."""

    event_ndim = 2
    takes_mask = True

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        apart = (x[..., :, None, :] - x[..., None, :, :]).square().sum(-1)
        excluded = torch.eye(x.shape[-2], dtype=torch.bool)
        if mask is not None:
            excluded = excluded | ~mask[..., None, :]
        nearest = apart.masked_fill(excluded, math.inf).argmin(-1)
        return torch.tanh(x.gather(-2, nearest[..., None].expand_as(x)) - x)
