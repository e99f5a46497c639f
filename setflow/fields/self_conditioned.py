"""Self-conditioning: a velocity that is given its own estimate of the data.

Chen, Zhang and Hinton, "Analog Bits: Generating Discrete Data using Diffusion Models with
Self-Conditioning" (arXiv:2208.04202). A network u(x, t, e) sees a state and an estimate e of the
data at its end. With the one that it makes without any, on the straight path

    e = x - t u(x, t, 0),      v(x, t) = u(x, t, e).

The published way keeps e from one step of the solver to the next: its velocity would depend on how
a state was reached, and an event on the steps of others. Here e is made anew, in a pass of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from setflow.fields.base import SetField
from setflow.sets.events import Events
from setflow.sets.masks import is_readable, zero_padding

__all__ = ["SelfConditionedField"]

_BANDS = 64  # of the times, in every second of which an estimate is given in training


class SelfConditionedField(SetField):
    """A field on sets that is given its own estimate of the data, for sampling alone.

    Each evaluation costs two of the network. In training the network is given its estimate in half
    of the events, as their times tell, and learns to do without in the others; no gradient passes
    through the estimate, so that `masked_log_prob` refuses the field. In its training mode that is
    what it does wherever gradients are recorded; call `eval()` before it is used.

    Arguments:
        network: a field on sets of twice as many features: those of a state, and behind them those
            of the estimate. Of its velocity the first half counts. It may take any context.

    Raises:
        TypeError: if `network` is no `SetField`.
        ValueError: if it has an odd number of features, or takes angles.

    >>> network = setflow.TransformerField(6, hidden=16, layers=1)
    >>> field = SelfConditionedField(network).eval()
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> field(x, torch.rand(8), mask=mask).shape
    torch.Size([8, 30, 3])
    """

    samples_only = True

    def __init__(self, network: SetField) -> None:
        if not isinstance(network, SetField):
            raise TypeError(
                f"network is a {type(network).__name__}, expected a field on sets of the library, "
                "such as setflow.TransformerField(6), which sees 3 features and 3 estimates"
            )
        if network.dim % 2 or network.angles:
            raise ValueError(
                f"network has dim={network.dim} and angles={list(network.angles)}, expected an "
                "even dim, since it sees each feature and the estimate of it, and no angles, on "
                "whose circle there is no straight way to the estimate"
            )
        super().__init__(
            network.dim // 2,
            condition_dim=network.condition_dim,
            object_condition_dim=network.object_condition_dim,
            set_condition_dim=network.set_condition_dim,
        )
        self.network = network

    def velocity(self, events: Events) -> Tensor:
        """Return the velocity of a flat batch of events; see `SetField`."""
        if not (self.training and torch.is_grad_enabled()):
            return self._given(events, self._estimate(events))
        assert events.t is not None
        estimate, told = torch.zeros_like(events.x), (_BANDS * events.t).long() % 2 == 1
        with torch.no_grad():
            if is_readable(events.x):  # no estimate is made that nobody is given
                rows = told.nonzero()[:, 0]
                mask = None if events.mask is None else events.mask[rows]
                estimate[rows] = self._estimate(events.taken(rows, None, mask))
            else:
                estimate = torch.where(told[:, None, None], self._estimate(events), estimate)
        return self._given(events, estimate)

    def _estimate(self, events: Events) -> Tensor:
        assert events.t is not None
        v = self._given(events, torch.zeros_like(events.x))
        return zero_padding(events.x - events.t[:, None, None] * v, events.mask)

    def _given(self, events: Events, estimate: Tensor) -> Tensor:
        seen = replace(events, x=torch.cat([events.x, estimate], -1))
        return self.network.velocity(seen)[..., : self.dim]
