"""The families of fields on sets, small: one entry serves the laws, the contract and the totals.

A family is a function from the number of features to a field, and the options of the cases that it
is judged on (`laws.cases`): how long a context row of the event or of its objects is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

import setflow
from setflow.fields import PairFeatures

__all__ = ["FAMILIES", "Family", "RowAsSet"]

CONTEXT_SLOTS, CONTEXT_FEATURES = 4, 2


class RowAsSet(nn.Module):
    """A field of context sets as one whose context is a row: objects, mask, own context."""

    event_ndim = 2
    takes_mask = True

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor, t: Tensor, c: Tensor, *, mask: Tensor | None = None) -> Tensor:
        shape = (CONTEXT_SLOTS, CONTEXT_FEATURES)
        objects, real, own = c.tensor_split([shape[0] * shape[1], shape[0] * (shape[1] + 1)], -1)
        c_set = setflow.SetBatch(
            objects.reshape(*c.shape[:-1], *shape), real > 0.5, own if own.shape[-1] else None
        )
        return self.field(x, t, c_set, mask=mask)


_ROW = CONTEXT_SLOTS * (CONTEXT_FEATURES + 1)


def _transformer(dim: int, **options: Any) -> setflow.TransformerField:
    return setflow.TransformerField(dim, hidden=8, layers=2, heads=2, **options)


def _epic(dim: int, **options: Any) -> setflow.EPiCField:
    return setflow.EPiCField(dim, hidden=8, latent=4, layers=2, **options)


def _graph(dim: int, k: int | None = 2, **options: Any) -> setflow.GraphField:
    return setflow.GraphField(dim, hidden=8, layers=2, messages=8, k=k, **options)


@dataclass(frozen=True)
class Family:
    make: Callable[[int], nn.Module]
    cases: dict[str, int] = field(default_factory=dict)


FAMILIES = {
    "transformer": Family(_transformer),
    "transformer, context": Family(lambda d: _transformer(d, condition_dim=2), {"context": 2}),
    "transformer, object context": Family(
        lambda d: _transformer(d, object_condition_dim=2, qk_norm=True), {"object_context": 2}
    ),
    "transformer, context set": Family(
        lambda d: RowAsSet(_transformer(d, set_condition_dim=CONTEXT_FEATURES)),
        {"context": _ROW},
    ),
    "transformer, context set with context": Family(
        lambda d: RowAsSet(
            _transformer(d, set_condition_dim=CONTEXT_FEATURES, condition_dim=2, qk_norm=True)
        ),
        {"context": _ROW + 2},
    ),
    "transformer, pairs": Family(
        lambda d: _transformer(d, pair_features=PairFeatures(columns=[0, min(1, d - 1), d - 1]))
    ),
    "transformer, angles": Family(lambda d: _transformer(d, angles=[d - 1])),
    "transformer, relative angles": Family(
        lambda d: _transformer(d, angles=[0, d - 1], relative_angles=[d - 1])
    ),
    "epic": Family(_epic),
    "epic, context": Family(lambda d: _epic(d, condition_dim=2), {"context": 2}),
    "epic, object context": Family(
        lambda d: _epic(d, object_condition_dim=2), {"object_context": 2}
    ),
    "epic, angles": Family(lambda d: _epic(d, angles=[d - 1])),
    "graph": Family(_graph),
    "graph, edgeconv": Family(
        lambda d: _graph(d, k=1, aggregation="edgeconv", condition_dim=2, coordinates=[0]),
        {"context": 2},
    ),
    "graph, angles": Family(lambda d: _graph(d, angles=[d - 1])),
    "graph, complete": Family(
        lambda d: _graph(d, k=None, object_condition_dim=2), {"object_context": 2}
    ),
    "graph, fixed": Family(
        lambda d: _graph(d, object_condition_dim=2, graph_from="context"), {"object_context": 2}
    ),
}
