"""A field and its Jacobian at one state: the products that every divergence is made of.

Notation. v(x) is the velocity of a batch of events and J its Jacobian, block by block: the events
do not mix. The product of a vector u with the Jacobian, u^T J, costs one reverse pass.

The arithmetic is that of the state, and at least float32: autocast and TF32 are switched off here,
and weights that are narrower are widened, once for a solve. Nothing depends on the caller's
gradient or inference mode, nor, but for rounding, on the kernels that the caller prefers for
attention.

A field that was given as `torch.compile(field)` is not called as such: inside a transform it would
silently run uncompiled, and twice differentiated it fails. The whole product is compiled in its
stead, as the field was, where no gradient of the result is asked for; elsewhere the field runs as
it is written.

Inside a transform of `torch.func` (`grad`, `jvp`, `vmap` and those made of them) a graph that is
walked backwards here would be out of its sight: there the products are made by `torch.func.vjp`,
and can be differentiated as often as asked for.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from setflow.sets.events import Events
from setflow.sets.masks import current_transform

__all__ = [
    "Linearization",
    "linearize",
    "plain_arithmetic",
    "recomputed",
    "uncompiled",
    "wide_weights",
]


@dataclass
class Linearization(ABC):
    """The velocity at a state, and products with its Jacobian there.

    Arguments:
        state: the state, with shape `(*lead, *event_shape)`.
        velocity: the velocity, with the shape of the state, zero in padded slots.
    """

    state: Tensor
    velocity: Tensor

    @abstractmethod
    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        """Return u^T J for each vector u.

        Arguments:
            vectors: with shape `(K, *lead, *event_shape)`.
            together: all in one reverse pass, which costs K times the memory.

        Returns:
            The products, with the shape of `vectors`.
        """


@dataclass
class _Eager(Linearization):
    """The graph of one evaluation, walked backwards as often as needed."""

    create_graph: bool
    again: Callable[[Tensor], Tensor]

    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        if not len(vectors):
            return torch.zeros_like(vectors)
        options: dict[str, Any] = {
            "retain_graph": True, "create_graph": self.create_graph, "allow_unused": True,
        }  # fmt: skip
        ends, found = (self.velocity, self.state), None
        if together and self.velocity.requires_grad:
            (found,) = torch.autograd.grad(*ends, vectors, is_grads_batched=True, **options)
        elif self.velocity.requires_grad:
            products = [torch.autograd.grad(*ends, u, **options)[0] for u in vectors]
            found = None if products[0] is None else torch.stack(products)
        if found is None:  # no graph leads to x
            self._require_constant()
            return torch.zeros_like(vectors)
        return found

    @torch.no_grad()
    def _require_constant(self) -> None:
        """Refuse a velocity that depends on x and does not let a gradient through to it."""
        steps = torch.linspace(0.1, 1.0, self.state.numel(), device=self.state.device)
        moved = self.again(self.state + steps.reshape(self.state.shape).to(self.state))
        if not torch.equal(moved, self.velocity):
            raise ValueError(
                "the velocity changes with x, but no gradient leads from it to x, so that its "
                "divergence would come out as 0 and the density wrong; compute it from x by "
                "differentiable operations of torch, without detach(), no_grad() and NumPy"
            )


@dataclass
class _Transformed(Linearization):
    """The products inside a transform of `torch.func`, which is to see them in turn."""

    product: Callable[[Tensor], Tensor]

    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        if together or not len(vectors):
            products: Tensor = torch.func.vmap(self.product)(vectors)
            return products
        return torch.stack([self.product(u) for u in vectors])


@dataclass
class _Compiled(Linearization):
    """Velocity and products as one compiled function, evaluated anew for each set of vectors."""

    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        self.velocity, products = self.evaluate(self.state, vectors.contiguous())
        return products


def _velocity_and_products(
    field: nn.Module, events: Events, x: Tensor, t: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return v and u^T J as pure functions, which the compiler can follow."""
    vjp: Any = torch.func.vjp  # its type does not tell without from with auxiliary output
    velocity, pull = vjp(lambda state: replace(events, x=state, t=t).velocity(field), x)
    return velocity, torch.func.vmap(lambda vector: pull(vector)[0])(vectors)


@contextmanager
def linearize(
    field: nn.Module,
    events: Events,
    weights: dict[str, Tensor] | None,
    *,
    create_graph: bool = False,
    together: bool = False,
) -> Iterator[Linearization]:
    """Evaluate a field so that products with its Jacobian can be taken inside the `with` block.

    Arguments:
        field: the field; evaluated as in evaluation under the laws of the mask.
        events: the events, at the state and time of the evaluation; float32 is the narrowest
            arithmetic.
        weights: those of the field that are to be taken in the place of its own, as `wide_weights`
            returns them for a solve.
        create_graph: whether velocity and products are to be differentiated in turn.
        together: whether products will be taken together.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(plain_arithmetic(events.x.device.type))
        events = _ordinary(events)
        x, t = events.x, events.t
        assert t is not None
        original = uncompiled(field)
        if current_transform() is not None:
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
            stack.enter_context(_as_written())
            vjp: Any = torch.func.vjp
            with _ComposedNorms():
                velocity, pull = vjp(
                    lambda state: replace(events, x=state).velocity(original, weights), x
                )
            yield _Transformed(x, velocity, lambda u: pull(u)[0])
            return
        compiled = original is not field and weights is None and not create_graph
        # the fused kernels can be differentiated once only, and not for many vectors at a time
        if create_graph or together or compiled:
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
        if compiled:
            stack.enter_context(torch.no_grad())
            product = field.dynamo_ctx(_velocity_and_products)  # type: ignore[operator]
            state = x.detach().contiguous()  # other strides would be compiled again
            unknown = state.new_zeros(0)  # until the first product brings the velocity
            yield _Compiled(state, unknown, lambda x, u: product(original, events, x, events.t, u))
            return
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_as_written())
        # a node of its own, since a context may have been computed from x
        tracked = create_graph and x.requires_grad
        state = x.view_as(x) if tracked else x.detach().requires_grad_()
        velocity = replace(events, x=state).velocity(original, weights)
        yield _Eager(
            state, velocity, create_graph, lambda x: events.at(x, t).velocity(original, weights)
        )


class _ComposedNorms(TorchFunctionMode):
    """Make layer norms of elementary operations.

    The third derivative of torch's own is wrong (torch 2.13: the Hessian of a divergence is not
    symmetric), and the second derivative of a log-density is made of it.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function not in (F.layer_norm, torch.layer_norm):
            return function(*args, **(kwargs or {}))
        return _layer_norm(*args, **(kwargs or {}))


def _layer_norm(
    h: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """Return what `torch.nn.functional.layer_norm` does."""
    dims = tuple(range(-len(normalized_shape), 0))
    centred = h - h.mean(dims, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def uncompiled(field: nn.Module) -> nn.Module:
    """Return the field that `torch.compile` was given, or the field itself."""
    if "torch._dynamo" not in sys.modules:  # then nothing was compiled
        return field
    original: nn.Module = getattr(field, "_orig_mod", field)
    return original


def _as_written() -> AbstractContextManager[Any]:
    """Run compiled parts of a field as they are written: compiled, they run backwards only once."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _ordinary(events: Events) -> Events:
    """Return events of at least float32 that autograd may save, which inference tensors are not."""
    events = events.changed(lambda value: value.clone() if value.is_inference() else value)
    x = _as_wide(events.x, torch.float32)
    context = events.context
    if context is not None:
        context = context.holding(*[_as_wide(value, x.dtype) for value in context.values])
    t = None if events.t is None else _as_wide(events.t, x.dtype)
    return replace(events, x=x, t=t, context=context)


def _as_wide(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor that is at least as wide as `dtype`; integers stay as they are."""
    if not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, dtype))


@contextmanager
def plain_arithmetic(device: str) -> Iterator[None]:
    """Leave autocast and the short formats of matrix products."""
    backends: Any = torch.backends  # its parts carry no types
    products = [
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
    ]
    before = [product.fp32_precision for product in products]
    short = [pair for pair in zip(products, before, strict=True) if pair[1] in ("tf32", "bf16")]
    try:
        for product, _ in short:
            product.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for product, precision in short:
            product.fp32_precision = precision


def wide_weights(field: nn.Module, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Return the weights of a field as autograd may save them, at least as wide as the state.

    None if they are so already; gradients reach the weights of the field. Looking at all of them
    takes a fifth of a millisecond, so that a solve asks once.

    Arguments:
        field: the field, which may be compiled.
        dtype: that of the states; float32 is the narrowest arithmetic.
    """
    field, dtype = uncompiled(field), torch.promote_types(dtype, torch.float32)
    own = {**dict(field.named_parameters()), **dict(field.named_buffers())}
    with torch.inference_mode(False), torch.enable_grad():
        wide = {
            name: _as_wide(value.clone() if value.is_inference() else value, dtype)
            for name, value in own.items()
        }
    return None if all(wide[name] is value for name, value in own.items()) else wide


def recomputed(
    function: Callable[[Events], tuple[Tensor, ...]],
    field: nn.Module,
    events: Events,
    weights: dict[str, Tensor] | None,
) -> tuple[Tensor, ...]:
    """Return `function(events)`, differentiable once, without keeping what it computes.

    The function runs without gradients now and again with them when they are asked for. Its
    derivatives with respect to states, times, context and everything that the field's value depends
    on (its parameters, and tensors that it holds otherwise) are complete.

    Arguments:
        function: takes events, calls `field` with them, and gives its results a graph where
            gradients are enabled.
        field: the field that it calls.
        events: the events.
        weights: those that it calls the field with, as `linearize` takes them.
    """
    assert events.t is not None
    context = () if events.context is None else events.context.values
    with torch.enable_grad(), plain_arithmetic(events.x.device.type), _as_written():
        found = _holding(events, *(v.detach() for v in (events.x, events.t, *context)))
        found = _ordinary(found)
        original = uncompiled(field)
        leaves = _leaves_of(found.velocity(original, weights))
    apply: Any = _Recomputed.apply  # which carries no types
    outputs: tuple[Tensor, ...] = apply(function, events, events.x, events.t, *context, *leaves)
    return outputs


def _holding(events: Events, x: Tensor, t: Tensor, *context: Tensor) -> Events:
    """Return events with other numbers in them."""
    own = None if events.context is None else events.context.holding(*context)
    return replace(events, x=x, t=t, context=own)


def _leaves_of(value: Tensor) -> list[Tensor]:
    """Return the tensors at the ends of a graph that gradients can reach."""
    seen, leaves, nodes = set(), [], [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes.extend(parent for parent, _ in node.next_functions)
    return leaves


class _Recomputed(torch.autograd.Function):
    """Arguments: the function, the events, their numbers (x, t, context) and the other leaves."""

    @staticmethod
    def forward(ctx: Any, function: Any, events: Events, *tensors: Tensor) -> Any:
        ctx.function = function
        ctx.count = 2 + (0 if events.context is None else len(events.context.values))
        ctx.events = _holding(events, *(v.detach() for v in tensors[: ctx.count]))
        ctx.save_for_backward(*tensors)
        return function(_holding(events, *tensors[: ctx.count]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "divergences and log-densities are differentiable once, and create_graph=True asks "
                "for a second time; leave it out, or give an estimator of your own that keeps its "
                "graph"
            )
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        inputs = [
            value.detach().requires_grad_(need)
            for value, need in zip(saved[: ctx.count], needed, strict=False)
        ]
        with torch.enable_grad(), plain_arithmetic(gradients[0].device.type):
            outputs = ctx.function(_holding(ctx.events, *inputs))
            everything = [*inputs, *saved[ctx.count :]]
            wanted = [v for v, need in zip(everything, needed, strict=True) if need]
            pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
            found: Any = [None] * len(wanted)
            if pairs:
                found = torch.autograd.grad(
                    [output for output, _ in pairs],
                    wanted,
                    [gradient for _, gradient in pairs],
                    retain_graph=True,  # part of the graph may be the caller's
                    allow_unused=True,
                )
        results = iter(found)
        return None, None, *(next(results) if need else None for need in needed)
