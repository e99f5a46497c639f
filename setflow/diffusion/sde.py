"""The Euler-Maruyama solver of stochastic equations.

Notation. dx = a(x, t) dt + g(t) dW, with drift a, diffusion g and a Wiener process W, is integrated
from `t0` to `t1` in `steps` steps, equal unless times are given, each of its h:

    x <- x + a(x, t) h + g(t) sqrt(|h|) z,    z ~ N(0, I).

Backwards in time (h < 0) this is the same equation with W running backwards; the drift that makes
it the reverse of another equation is the caller's. Moments converge at order 1 (weak order 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from setflow.sets.shapes import positive_integer
from setflow.solvers.fixed import TimeGrid

__all__ = ["EulerMaruyama"]


class EulerMaruyama(TimeGrid):
    """The Euler-Maruyama method: one evaluation of drift and diffusion per step.

    Maruyama, "Continuous Markov processes and stochastic equations" (Rend. Circ. Mat. Palermo 4,
    48, 1955). Neither drift nor diffusion is evaluated at `t1`. The noise does not depend on the
    state, so gradients flow through a draw (`supports_rsample`).

    Arguments:
        steps: the number of steps when `integrate` is not given one; with `times` as many as these
            have.
        times: the times between which the steps are made, as in `setflow.Midpoint`; None makes
            equal steps.

    Raises:
        ValueError: if `steps` is not a positive integer, or `times` are no such grid.

    >>> noise = torch.Generator().manual_seed(0)
    >>> x1 = EulerMaruyama(steps=50).integrate(
    ...     lambda x, t: -x, lambda t: 2**0.5, torch.zeros(10_000), t0=0.0, t1=5.0, generator=noise
    ... )
    >>> round(x1.std().item(), 1)  # the stationary standard deviation is 1
    1.0
    """

    is_sde: ClassVar[bool] = True
    requires_steps: ClassVar[bool] = True
    supports_rsample: ClassVar[bool] = True

    def __init__(self, steps: int = 64, *, times: Iterable[float] | Tensor | None = None) -> None:
        super().__init__(steps, times, default=64)

    def integrate(
        self,
        drift: Callable[[Tensor, Any], Tensor],
        diffusion: Callable[[Any], Tensor | float],
        x0: Tensor,
        t0: Tensor | float,
        t1: Tensor | float,
        steps: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return one draw of x(t1) for x(t0) = `x0`, differentiable with respect to `x0`.

        Arguments:
            drift: the drift; called with x, of the shape of `x0`, and a number t.
            diffusion: the diffusion g; called with a number t, returns a number, or a tensor with
                as many dimensions as `x0`, each of its size or of size one.
            x0: the state at `t0`, of any shape.
            t0: the first time, a number or a scalar tensor, to which gradients flow.
            t1: the last time, before or after `t0`, likewise.
            steps: the number of steps; None takes the solver's own.
            generator: the random generator, on the device of `x0`.

        Raises:
            ValueError: if `steps` is not a positive integer, or drift or diffusion returns a shape
                that does not fit that of `x0`.
        """
        count = self.steps if steps is None else positive_integer(steps, "steps")
        grid = None if self.times is None else self._intervals(t0, t1, steps)
        h = (t1 - t0) / count
        x = x0
        for step in range(count):
            t = t0 + step * h
            if grid is not None:
                t, h = grid[step][0], grid[step][1] - grid[step][0]
            a, g = _checked_drift(drift(x, t), x), _checked_diffusion(diffusion(t), x)
            length: Any = abs(h)
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + h * a + g * (length**0.5 * z)
        return x


def _checked_drift(a: Tensor, x: Tensor) -> Tensor:
    if a.shape != x.shape:
        raise ValueError(
            f"the drift has shape {tuple(a.shape)}, expected {tuple(x.shape)}: that of its state"
        )
    return a


def _checked_diffusion(g: Tensor | float, x: Tensor) -> Tensor:
    g = torch.as_tensor(g, dtype=x.dtype, device=x.device)
    fits = g.ndim == x.ndim and all(
        mine in (1, theirs) for mine, theirs in zip(g.shape, x.shape, strict=True)
    )
    if g.ndim and not fits:
        raise ValueError(
            f"the diffusion has shape {tuple(g.shape)}, expected a number, or {x.ndim} dimensions "
            f"that broadcast over the state's {tuple(x.shape)}; append dimensions of size one to "
            "one value per event"
        )
    return g
