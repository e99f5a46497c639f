"""A field and its Jacobian at one state: the products that every divergence is made of.

Notation. v(x) is the velocity of a batch of events and J its Jacobian, block by block: the events
do not mix. The product of a vector u with the Jacobian, u^T J, costs one reverse pass.

The arithmetic is that of the state, and at least float32: autocast and TF32 are switched off here,
and weights that are narrower are widened for the call. Nothing depends on the caller's gradient or
inference mode, nor on the kernels that the caller prefers for attention.

A field that was given as `torch.compile(field)` is not called as such: inside a transform it would
silently run uncompiled, and twice differentiated it fails. The whole product is compiled in its
stead, as the field was, where no gradient of the result is asked for; elsewhere the field runs as
it is written.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from setflow.sets.events import call_field
from setflow.sets.protocols import declares, event_ndim_of

__all__ = ["Linearization", "linearize", "recomputed", "uncompiled"]


class Linearization(ABC):
    """The velocity at a state, and products with its Jacobian there.

    Arguments:
        state: the state, with shape `(*lead, *event_shape)`.
    """

    def __init__(self, state: Tensor) -> None:
        self.state = state

    @property
    @abstractmethod
    def velocity(self) -> Tensor:
        """The velocity, with the shape of the state, zero in padded slots."""

    @abstractmethod
    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        """Return u^T J for each vector u.

        Arguments:
            vectors: with shape `(K, *lead, *event_shape)`.
            together: all in one reverse pass, which costs K times the memory.

        Returns:
            The products, with the shape of `vectors`.
        """


class _Eager(Linearization):
    """The graph of one evaluation, walked backwards as often as needed."""

    def __init__(self, state: Tensor, velocity: Tensor, *, create_graph: bool) -> None:
        super().__init__(state)
        self._velocity = velocity
        self._create_graph = create_graph

    @property
    def velocity(self) -> Tensor:
        return self._velocity

    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        if not self.velocity.requires_grad or not len(vectors):
            return torch.zeros_like(vectors)
        if together:
            return self._products(vectors, is_grads_batched=True)
        return torch.stack([self._products(vector) for vector in vectors])

    def _products(self, vectors: Tensor, *, is_grads_batched: bool = False) -> Tensor:
        (products,) = torch.autograd.grad(
            self.velocity,
            self.state,
            vectors,
            retain_graph=True,
            create_graph=self._create_graph,
            is_grads_batched=is_grads_batched,
            materialize_grads=True,
        )
        return products


class _Compiled(Linearization):
    """Velocity and products as one compiled function, evaluated anew for each set of vectors."""

    def __init__(
        self, evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], state: Tensor
    ) -> None:
        super().__init__(state.contiguous())  # other strides would be compiled again
        self._evaluate = evaluate
        self._velocity: Tensor | None = None

    @property
    def velocity(self) -> Tensor:
        if self._velocity is None:  # no product was asked for
            self.pull(self.state.new_zeros(1, *self.state.shape))
        assert self._velocity is not None
        return self._velocity

    def pull(self, vectors: Tensor, *, together: bool = False) -> Tensor:
        self._velocity, products = self._evaluate(self.state, vectors.contiguous())
        return products


def _velocity_and_products(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Tensor | None,
    mask: Tensor | None,
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return v and u^T J as pure functions, which the compiler can follow."""
    vjp: Any = torch.func.vjp  # its type does not tell without from with auxiliary output
    velocity, pull = vjp(lambda state: call_field(field, state, t, c, mask), x)
    return velocity, torch.func.vmap(lambda vector: pull(vector)[0])(vectors)


@contextmanager
def linearize(
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    create_graph: bool = False,
    together: bool = False,
) -> Iterator[Linearization]:
    """Evaluate a field so that products with its Jacobian can be taken inside the `with` block.

    Arguments:
        field: the field; evaluated as in evaluation under the laws of the mask.
        x: the state, with shape `(*lead, *event_shape)`; float32 is the narrowest arithmetic.
        t: the time, a number or a tensor with shape `lead`.
        c: the context, or None.
        mask: boolean mask with shape `(*lead, N)`, or None for all real.
        create_graph: whether velocity and products are to be differentiated in turn.
        together: whether products will be taken together.
    """
    event_ndim_of(field)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_plain_arithmetic(x.device.type))
        x, t, c, mask = (_ordinary(value) for value in (_as_wide(x), t, c, mask))
        c = None if c is None else _as_wide(c, x.dtype)
        original = uncompiled(field)
        wide = _in_dtype(original, x.dtype)
        compiled = original is not field and wide is original and not create_graph
        # the fused kernels can be differentiated once only, and not for many vectors at a time; on
        # a CPU they are no faster for the few events that are evaluated together
        if create_graph or together or compiled or x.device.type == "cpu":
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
        if compiled:
            stack.enter_context(torch.no_grad())
            product = field.dynamo_ctx(_velocity_and_products)  # type: ignore[operator]
            time = torch.as_tensor(t, dtype=x.dtype, device=x.device)  # a number is compiled in
            yield _Compiled(lambda x, u: product(original, x, time, c, mask, u), x.detach())
            return
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_as_written())
        # a node of its own, since a context may have been computed from x
        tracked = create_graph and x.requires_grad
        state = x.view_as(x) if tracked else x.detach().requires_grad_()
        velocity = call_field(wide, state, t, c, mask)
        yield _Eager(state, velocity, create_graph=create_graph)


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


def _ordinary(value: Any) -> Any:
    """Return a tensor that autograd may save, which one made in inference mode is not."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _as_wide(value: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor that is at least as wide as `dtype`."""
    return value.to(dtype) if _narrower(value, dtype) else value


def _narrower(value: Tensor, dtype: torch.dtype) -> bool:
    return value.is_floating_point() and torch.finfo(value.dtype).bits < torch.finfo(dtype).bits


@contextmanager
def _plain_arithmetic(device: str) -> Iterator[None]:
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


def _in_dtype(field: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a field whose weights autograd may save and are as wide as the state, or wider."""
    tensors = [*field.parameters(), *field.buffers()]
    unfit = any(_narrower(t, dtype) or t.is_inference() for t in tensors)
    return _Widened(field, dtype) if unfit else field


class _Widened(nn.Module):
    """A field that is called with its weights in a wider dtype; gradients reach the weights."""

    def __init__(self, field: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.field = field
        self.dtype = dtype
        self.event_ndim = event_ndim_of(field)
        self.takes_mask = declares(field, "takes_mask")

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None, **mask: Any) -> Any:
        weights = {
            name: _as_wide(_ordinary(value), self.dtype)
            for name, value in [*self.field.named_parameters(), *self.field.named_buffers()]
        }
        return torch.func.functional_call(self.field, weights, (x, t, c), mask)


def recomputed(
    function: Callable[[Tensor, Any, Tensor | None], tuple[Tensor, ...]],
    field: nn.Module,
    x: Tensor,
    t: Tensor | float,
    c: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return `function(x, t, c)`, differentiable once, without keeping what it computes.

    The function runs without gradients now and again with them when they are asked for. Its
    derivatives with respect to x, t, c and everything that the field's value depends on (its
    parameters, and tensors that it holds otherwise) are complete.

    Arguments:
        function: takes x, t and c, calls `field` with them, and gives its results a graph where
            gradients are enabled.
        field: the field that it calls.
        x: the state.
        t: the time.
        c: the context.
        mask: the mask with which the field is called.
    """
    with torch.enable_grad(), _plain_arithmetic(x.device.type), _as_written():
        state = _as_wide(x.detach())
        context = None if c is None else _as_wide(c.detach(), state.dtype)
        time = t.detach() if isinstance(t, Tensor) else t
        wide = _in_dtype(uncompiled(field), state.dtype)
        leaves = _leaves_of(call_field(wide, state, time, context, mask))
    apply: Any = _Recomputed.apply  # which carries no types
    outputs: tuple[Tensor, ...] = apply(function, x, t, c, *leaves)
    return outputs


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
    @staticmethod
    def forward(ctx: Any, function: Any, x: Tensor, t: Any, c: Any, *leaves: Tensor) -> Any:
        ctx.function, ctx.time = function, None if isinstance(t, Tensor) else t
        ctx.save_for_backward(x, t if isinstance(t, Tensor) else None, c, *leaves)
        return function(x, t, c)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "divergences and log-densities are differentiable once, and create_graph=True asks "
                "for a second time; leave it out, or give an estimator of your own that keeps its "
                "graph"
            )
        x, t, c, *leaves = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        inputs = [
            value if value is None else value.detach().requires_grad_(need)
            for value, need in zip((x, t, c), needed, strict=False)
        ]
        with torch.enable_grad(), _plain_arithmetic(gradients[0].device.type):
            outputs = ctx.function(inputs[0], ctx.time if t is None else inputs[1], inputs[2])
            wanted = [v for v, need in zip([*inputs, *leaves], needed, strict=True) if need]
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
        return None, *(next(results) if need else None for need in needed)
