"""The exact divergence: one reverse pass per real coordinate of the longest event of a chunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from setflow.divergence.base import (
    DivergenceEstimator,
    PlannedDivergence,
)
from setflow.divergence.linearization import Linearization, linearize, recomputed, uncompiled
from setflow.random import EventSeeds
from setflow.sets.events import Context
from setflow.sets.masks import count_real
from setflow.sets.planning import Chunk, Plan, plan_events, trimmable
from setflow.sets.protocols import event_ndim_of, part_that_declares
from setflow.sets.shapes import event_numel

__all__ = ["ExactDivergence"]

_MEMORY = 2**30
# measured with a transformer on two cores: an evaluation costs about as much as 300 objects besides
# its own, and more than 2,048 objects leave the cache
_CPU_OVERHEAD, _CPU_OBJECTS, _CPU_LANES = 300, 2048, 16
_GPU_OVERHEAD, _GPU_OBJECTS = 2**15, 2**18
_WORKING = 1.0  # memory of a reverse pass, in units of what the graph of its event keeps


class ExactDivergence(DivergenceEstimator):
    """The trace of the Jacobian over real coordinates, coordinate by coordinate.

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

    def __init__(
        self,
        max_dim: int | None = None,
        *,
        memory: int | None = None,
        batched: bool | None = None,
    ) -> None:
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

    def velocity_and_divergence(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Context | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return velocity and exact divergence; see `DivergenceEstimator`.

        Raises:
            ValueError: if an event has more than `max_dim` real coordinates.
        """
        return self.for_solve(x, mask).velocity_and_divergence(field, x, t, c, mask=mask)

    def for_solve(
        self,
        x: Tensor,
        mask: Tensor | None,
        generator: torch.Generator | EventSeeds | None = None,
    ) -> PlannedDivergence:
        """Return the estimator that plans the events of one solve once."""
        return _PlannedExact(self)


class _PlannedExact(PlannedDivergence):
    def __init__(self, options: ExactDivergence) -> None:
        self._options = options
        self._saved = 0  # bytes that the graph of the longest event keeps
        self._longest = 1
        self._memory = 0

    def plan(
        self,
        field: nn.Module,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None,
        mask: Tensor | None,
    ) -> Plan:
        event_ndim = event_ndim_of(field)
        event = x.shape[1:]
        per_object = event_numel(event[1:]) if event_ndim > 1 else event_numel(event)
        slots = x.shape[1] if event_ndim > 1 else 1
        lengths = None if mask is None else count_real(mask)
        longest = slots if lengths is None else int(lengths.max())
        max_dim = self._options.max_dim
        if max_dim is not None and longest * per_object > max_dim:
            raise ValueError(
                f"an event has {longest * per_object} coordinates, more than max_dim={max_dim}; "
                "raise it, or use setflow.HutchinsonDivergence()"
            )
        if not x.numel():
            return Plan([Chunk(None, None, mask)], slots)
        self._memory = self._options.memory or _default_memory(x.device)
        widest = 0 if lengths is None else int(lengths.argmax())
        whole = part_that_declares(field, "holds_context") is not None
        one = slice(None) if whole else slice(widest, widest + 1)
        trimmed = lengths is not None and trimmable(field)
        self._saved = bytes_saved(
            field,
            x[one],
            t[one] if isinstance(t, Tensor) and t.ndim else t,
            None if c is None else c[one],
            None if mask is None else mask[one],
        )
        if whole:
            self._saved //= len(x)
        if trimmed:  # columns of padding are not kept
            self._saved = self._saved * max(1, longest) // slots
        self._longest = max(1, longest if trimmed else slots)
        on_cpu = x.device.type == "cpu"

        def largest(n: int) -> int:
            fits = int(self._memory / (self._bytes(n) * (1 + _WORKING)))
            return max(1, min(fits, (_CPU_OBJECTS if on_cpu else _GPU_OBJECTS) // max(1, n)))

        return plan_events(
            field,
            x,
            mask,
            overhead=_CPU_OVERHEAD if on_cpu else _GPU_OVERHEAD,
            largest=largest,
            repeats=lambda n: 1 + n * per_object,
        )

    def _bytes(self, objects: int) -> float:
        return max(1.0, self._saved * max(1, objects) / self._longest)

    def estimates(
        self, field: nn.Module, x: Tensor, t: Tensor | float, c: Tensor | None, chunk: Chunk
    ) -> tuple[Tensor, Tensor]:
        used = _used_coordinates(chunk.mask, tuple(x.shape[1:]), x)
        again = torch.is_grad_enabled()
        objects = x.shape[1] if event_ndim_of(field) > 1 else 1
        budget = self._memory / max(1.0, len(x) * self._bytes(objects)) - 1
        lanes = self._lanes(len(x) * objects, budget / _WORKING, x.device)
        if not again:
            with linearize(field, x, t, c, chunk.mask, together=lanes > 1) as lin:
                total = _trace(lin, used, lanes)
                return lin.velocity.detach(), total[:, None]

        group = max(1, int(budget / 3))  # a product with its graph keeps about three times as much
        v, total = None, x.new_zeros(())
        for first in range(0, max(1, len(used)), group):
            some = used[first : first + group]

            def differentiated(
                x: Tensor, t: Tensor | float, c: Tensor | None, some: Tensor = some
            ) -> tuple[Tensor, ...]:
                graph = torch.is_grad_enabled()
                together = lanes > 1 and not graph
                with linearize(
                    field, x, t, c, chunk.mask, create_graph=graph, together=together
                ) as lin:
                    trace = _trace(lin, some, lanes if together else 1)
                    v = lin.velocity if graph else lin.velocity.detach()
                    return v, trace

            v_again, part = recomputed(differentiated, field, x, t, c, chunk.mask)
            v = v_again if v is None else v
            total = total + part
        assert v is not None
        return v, total[:, None]

    def _lanes(self, objects: int, fitting: float, device: torch.device) -> int:
        if self._options.batched is False or fitting < 2:
            return 1
        if device.type != "cpu":
            return max(1, min(int(fitting), _GPU_OBJECTS // max(1, objects)))
        few = min(_CPU_LANES, _CPU_OBJECTS // max(1, objects))
        if self._options.batched is None and few < 4:  # then one after the other is as fast
            return 1
        return max(1, min(int(fitting), few))


def _trace(lin: Linearization, used: Tensor, lanes: int) -> Tensor:
    """Return the sum of d v_i / d x_i over the coordinates `used`, with shape `(b,)`."""
    x = lin.state
    total = x.new_zeros(len(x))
    for first in range(0, len(used), lanes):
        some = used[first : first + lanes]
        row = torch.arange(len(some), device=x.device)
        vectors = x.new_zeros(len(some), len(x), x[0].numel())
        vectors[row, :, some] = 1
        products = lin.pull(vectors.reshape(len(some), *x.shape), together=lanes > 1)
        total = total + products.reshape(vectors.shape)[row, :, some].sum(0)
    return total


def _used_coordinates(mask: Tensor | None, event: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the flat coordinates that are real in any event."""
    coordinates = torch.arange(event_numel(event), device=like.device)
    if mask is None:
        return coordinates
    return coordinates[mask.any(0).repeat_interleave(event_numel(event[1:]))]


def _default_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return _MEMORY


def bytes_saved(
    field: nn.Module, x: Tensor, t: Tensor | float, c: Tensor | None, mask: Tensor | None
) -> int:
    """Return the bytes that the graph of one evaluation keeps, its weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in [*field.parameters(), *field.buffers()]}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        linearize(uncompiled(field), x, t, c, mask),
    ):
        pass
    return sum(kept.values())
