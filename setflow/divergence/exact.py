"""The exact divergence: one reverse pass per real coordinate of the longest event of a chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from setflow.divergence.analytic import analytic_evaluation
from setflow.divergence.base import Evaluation, PlannedEstimator, PlannedSolve
from setflow.divergence.linearization import (
    Linearization,
    linearize,
    recomputed,
    uncompiled,
    wide_weights,
)
from setflow.random import EventSeeds
from setflow.sets.events import Events
from setflow.sets.masks import current_transform, is_readable
from setflow.sets.planning import Chunk, Plan, plan_events, traits_of

__all__ = ["ExactDivergence"]

_MEMORY = 2**30
# measured with a transformer on two cores: an evaluation costs about as much as 300 objects besides
# its own, and more than 2,048 objects leave the cache
_CPU_OVERHEAD, _CPU_OBJECTS, _CPU_LANES = 300, 2048, 16
_GPU_OVERHEAD, _GPU_OBJECTS = 2**15, 2**18
_WORKING = 1.0  # memory of a reverse pass, in units of what the graph of its event keeps


class ExactDivergence(PlannedEstimator):
    """The trace of the Jacobian over real coordinates, coordinate by coordinate.

    A field that has a method `call_and_divergence(x, t, c=None)`, as in nami, is asked for its
    velocity and its divergence instead; with `mask=` if it takes the mask, and then over real
    coordinates. No more than the shapes of what it returns is checked.

    Events of like length are evaluated together, in chunks of bounded memory, each over the real
    coordinates of its longest event: a field that takes the mask sees no more padding than that.
    Where gradients are asked for, the coordinates are differentiated in groups that fit the same
    memory, and computed again in the backward pass.

    Arguments:
        max_dim: the largest number of real coordinates of an event that is accepted, as a guard
            against an evaluation that would take too long; None accepts any.
        memory: the bytes that an evaluation may take besides its arguments and results; a single
            event is never cut, whatever it needs. None takes 1 GiB, on a GPU half of what is free.
        batched: take several coordinates in one reverse pass, which a field must allow (its
            operations need batching rules); None does so where it is faster: on a GPU, and for few
            and short events.

    Raises:
        ValueError: if `max_dim` or `memory` is not positive.

    >>> field = setflow.GaussianSetField(torch.zeros(2), torch.ones(2))
    >>> ExactDivergence()(field, torch.zeros(4, 3, 2), 1.0)  # v = x at t = 1
    tensor([6., 6., 6., 6.])
    """

    is_exact = True

    def __init__(
        self,
        max_dim: int | None = None,
        *,
        memory: int | None = None,
        batched: bool | None = None,
    ) -> None:
        if isinstance(max_dim, str):
            raise ValueError(
                f"max_dim must be a positive integer or None, got {max_dim!r}: the largest number "
                "of real coordinates of an event; an exact divergence has no kind of probes"
            )
        if max_dim is not None and max_dim < 1:
            raise ValueError(f"max_dim must be positive or None, got {max_dim}")
        if memory is not None and memory < 1:
            raise ValueError(f"memory must be a positive number of bytes or None, got {memory}")
        self.max_dim = max_dim
        self.memory = memory
        self.batched = batched

    def __repr__(self) -> str:
        given = {"max_dim": self.max_dim, "memory": self.memory, "batched": self.batched}
        text = (f"{name}={value}" for name, value in given.items() if value is not None)
        return f"ExactDivergence({', '.join(text)})"

    def for_solve(
        self,
        field: nn.Module,
        events: Events,
        seeds: EventSeeds | torch.Generator | None = None,
    ) -> Evaluation:
        """Plan the events of one solve, once; see `DivergenceEstimator`.

        Raises:
            ValueError: if an event has more than `max_dim` real coordinates.
        """
        if events.present is None and callable(getattr(field, "call_and_divergence", None)):
            own = analytic_evaluation(field, events)
            if own is not None:
                return own
        flat = events.flat()
        transformed = current_transform() is not None
        per_object = flat.x.shape[2:].numel() if flat.event_ndim > 1 else flat.x[:1].numel()
        hidden = flat.mask is None or (transformed and not is_readable(flat.mask))
        lengths = None if hidden or not len(flat.x) else flat.lengths
        longest = flat.slots if lengths is None else int(lengths.max())
        if self.max_dim is not None and longest * per_object > self.max_dim:
            raise ValueError(
                f"an event has {longest * per_object} coordinates, more than "
                f"max_dim={self.max_dim}; raise it, or use setflow.HutchinsonDivergence()"
            )
        weights = wide_weights(field, flat.x.dtype)
        if transformed or not flat.x.numel():  # no values and no graph to plan by
            whole = [Chunk(None, None, flat.mask)] if len(flat.x) else []
            return _ExactSolve(field, Plan(whole), 1, weights, 1, 1.0, self.batched)
        traits = traits_of(field)
        if traits.holds_events or flat.together:
            saved = bytes_saved(field, flat) / len(flat.x)
        else:
            widest = torch.tensor([0 if lengths is None else int(lengths.argmax())])
            one = widest.to(flat.x.device)
            mask = None if flat.mask is None else flat.mask[one]
            saved = bytes_saved(field, flat.taken(one, None, mask))
        # what the graph of an object keeps; columns of padding keep as much before they are cut
        per_slot = saved / flat.slots
        on_cpu, memory = flat.x.device.type == "cpu", self.memory or _MEMORY
        if flat.x.is_cuda and not self.memory:
            memory = int(torch.cuda.mem_get_info(flat.x.device)[0]) // 2
        overhead, most = (_CPU_OVERHEAD, _CPU_OBJECTS) if on_cpu else (_GPU_OVERHEAD, _GPU_OBJECTS)
        room = memory / (max(1.0, per_slot) * (1 + _WORKING))  # for so many objects
        plan = plan_events(
            traits,
            flat,
            overhead=overhead,
            objects=int(min(room, most)),
            repeats=lambda n: 1 + n * per_object,
        )
        per_slot = max(1.0, per_slot)
        return _ExactSolve(field, plan, 1, weights, memory, per_slot, self.batched)


@dataclass
class _ExactSolve(PlannedSolve):
    """One solve.

    Arguments:
        memory: the bytes that an evaluation may take.
        per_object: the bytes that the graph of an evaluation keeps for each object.
        batched: as `ExactDivergence` takes it.
    """

    memory: int
    per_object: float
    batched: bool | None

    def estimates(self, part: Events, chunk: Chunk) -> tuple[Tensor, Tensor]:
        field, weights, events = self.field, self.weights, len(part.x)
        used = _used_coordinates(part)
        if not len(used):  # all is padding, where the velocity is zero
            return torch.zeros_like(part.x), part.x.new_zeros(events, 1, dtype=torch.float64)
        budget = self.memory / (max(1, events * part.slots) * self.per_object) - 1
        lanes = self._lanes(events * part.slots, budget / _WORKING, part.x.device)
        if current_transform() is not None:
            with linearize(field, part, weights) as lin:
                return lin.velocity, _trace(lin, used, 1)[:, None].double()
        if not torch.is_grad_enabled():
            with linearize(field, part, weights, together=lanes > 1) as lin:
                total = _trace(lin, used, lanes)
                return lin.velocity.detach(), total[:, None].double()

        group = max(1, int(budget / 3))  # a product with its graph keeps about three times as much
        v, total = None, part.x.new_zeros(())
        for first in range(0, len(used), group):
            some = used[first : first + group]

            def differentiated(again: Events, some: Tensor = some) -> tuple[Tensor, ...]:
                graph = torch.is_grad_enabled()
                together = lanes > 1 and not graph
                options = {"create_graph": graph, "together": together}
                with linearize(field, again, weights, **options) as lin:
                    trace = _trace(lin, some, lanes if together else 1)
                    v = lin.velocity if graph else lin.velocity.detach()
                    return v, trace

            v_again, share = recomputed(differentiated, field, part, weights)
            v = v_again if v is None else v
            total = total + share
        assert v is not None
        return v, total[:, None].double()

    def _lanes(self, objects: int, fitting: float, device: torch.device) -> int:
        if self.batched is False or fitting < 2:
            return 1
        if device.type != "cpu":
            return max(1, min(int(fitting), _GPU_OBJECTS // max(1, objects)))
        few = min(_CPU_LANES, _CPU_OBJECTS // max(1, objects))
        if self.batched is None and few < 4:  # then one after the other is as fast
            return 1
        return max(1, min(int(fitting), few))


def _trace(lin: Linearization, used: Tensor, lanes: int) -> Tensor:
    """Return the sum of d v_i / d x_i over the coordinates `used`, with shape `(b,)`."""
    x = lin.state
    total = x.new_zeros(len(x))
    for first in range(0, len(used), lanes):
        some = used[first : first + lanes]
        row = torch.arange(len(some), device=x.device)
        shape = (len(some), len(x), x[0].numel())
        vectors = torch.zeros(shape, dtype=x.dtype, device=x.device)
        vectors[row, :, some] = 1
        products = lin.pull(vectors.reshape(len(some), *x.shape), together=lanes > 1)
        total = total + products.reshape(vectors.shape)[row, :, some].sum(0)
    return total


def _used_coordinates(events: Events) -> Tensor:
    """Return the flat coordinates that are real in any event."""
    event = events.x.shape[1:]
    coordinates = torch.arange(event.numel(), device=events.x.device)
    if events.present is not None and is_readable(events.present):
        return coordinates[events.present.any(0).reshape(-1)]
    if events.mask is None or (current_transform() is not None and not is_readable(events.mask)):
        return coordinates
    return coordinates[events.mask.any(0).repeat_interleave(event[1:].numel())]


def bytes_saved(field: nn.Module, events: Events) -> int:
    """Return the bytes that the graph of one evaluation keeps, its weights not counted.

    The kernels are those of products that are taken together: they keep the most.
    """
    field, wide = uncompiled(field), wide_weights(field, events.x.dtype)
    own = [*field.parameters(), *field.buffers(), *({} if wide is None else wide).values()]
    weights = {value.untyped_storage().data_ptr() for value in own}

    saved: list[Tensor] = []  # held, so that no two of them share a place
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda value: saved.append(value) or value,  # type: ignore[func-returns-value]
            lambda value: value,
        ),
        linearize(field, events, wide, together=True),
    ):
        storages = [value.untyped_storage() for value in saved]
        return sum(
            {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in weights}.values()
        )
