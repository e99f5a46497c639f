"""States as rows of float64, one per event, for a solver that steps each event alone.

Notation. A state with shape `(*lead, *event_shape)` holds B events of F coordinates, with one
log-density each or K estimates of it. A row is an event: its F coordinates, zero in padded slots,
and behind them the K log-densities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from setflow.sets.masks import as_mask, count_real, zero_padding
from setflow.sets.shapes import check_accumulated, event_numel, split_event

__all__ = ["Rates", "RowFlow"]

Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass
class RowFlow:
    """The right-hand side on rows, and how states are packed into them; counts its calls.

    Arguments:
        rates: called with x, of the shape and dtype of the state, and times with shape `lead`;
            returns the velocity and the rate of the log-density, or None.
        shape: the shape of the state, `(*lead, *event_shape)`.
        dtype: its dtype.
        lead: the shape in front of the events.
        mask: which slots are real, with shape `(*lead, N)`, or which coordinates, with that of the
            state; None means all.
        n_real: the number of real coordinates of each event, with shape `(B,)`.
        logp0: the log-density at the start, with shape `lead` or `(*lead, K)`; None without one.
        calls: how often `rates` was called.
    """

    rates: Rates
    shape: tuple[int, ...]
    dtype: torch.dtype
    lead: tuple[int, ...]
    mask: Tensor | None
    n_real: Tensor
    logp0: Tensor | None
    calls: int = 0

    @classmethod
    def of(
        cls,
        rates: Rates,
        x0: Tensor,
        logp0: Tensor | None,
        mask: Tensor | None,
        event_ndim: int | None,
    ) -> RowFlow:
        """Return the right-hand side for a state like `x0`, checked.

        Raises:
            ValueError: if shapes do not fit, `x0` is not floating point, or neither mask nor
                `event_ndim` tells what an event is.
        """
        if not x0.is_floating_point():
            raise ValueError(f"the state must be floating point, got {x0.dtype}")
        if event_ndim is None:
            if mask is None:
                raise ValueError(
                    "neither mask nor event_ndim is given, so it is not known what an event is; "
                    "pass event_ndim, 2 for sets with shape (N, D)"
                )
            event_ndim = max(1, x0.ndim - mask.ndim + 1)
        lead, event = split_event(x0, event_ndim)
        n_real = torch.full((math.prod(lead),), event_numel(event), device=x0.device)
        if mask is not None:
            if not event:
                raise ValueError("a mask needs an object dimension, got event_ndim=0")
            if len(event) > 1 and mask.ndim == x0.ndim:
                mask = as_mask(mask, x0.shape).to(x0.device)
                n_real = mask.reshape(len(n_real), event_numel(event)).sum(-1)
            else:
                mask = as_mask(mask, (*lead, event[0])).to(x0.device)
                n_real = count_real(mask).reshape(-1) * event_numel(event[1:])
        if logp0 is not None:
            check_accumulated(logp0, lead)
        return cls(rates, tuple(x0.shape), x0.dtype, lead, mask, n_real, logp0)

    @property
    def numel(self) -> int:
        """The number of coordinates of one event, F."""
        return event_numel(self.shape[len(self.lead) :])

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slopes at the rows `y`, with their shape, and the times `t`, `(B,)`."""
        self.calls += 1
        x, _ = self.unpack(y)
        return self.pack(*self.rates(x, t.reshape(self.lead).to(x.dtype)))

    def pack(self, x: Tensor, logp: Tensor | None) -> Tensor:
        """Return rows with shape `(B, F)` or `(B, F + K)`, zero in padded slots.

        Raises:
            ValueError: if `x` or `logp` has another shape than at the start.
        """
        if tuple(x.shape) != self.shape:
            raise ValueError(
                f"f returned shape {tuple(x.shape)} for a state of shape {self.shape}; "
                "a velocity has the shape of its state"
            )
        rows = zero_padding(x, self.mask).reshape(len(self.n_real), self.numel).double()
        if logp is None or self.logp0 is None:
            return rows
        if logp.shape != self.logp0.shape:
            raise ValueError(
                f"f_aug returned a rate of shape {tuple(logp.shape)}, expected "
                f"{tuple(self.logp0.shape)}: that of logp0"
            )
        columns = event_numel(logp.shape[len(self.lead) :])
        return torch.cat([rows, logp.reshape(len(rows), columns).double()], -1)

    def unpack(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the state and the log-density of rows, in their own shapes and dtypes."""
        x = y[:, : self.numel].reshape(self.shape).to(self.dtype)
        if self.logp0 is None:
            return x, None
        return x, y[:, self.numel :].reshape(self.logp0.shape).to(self.logp0.dtype)
