"""Muon for the hidden weights, AdamW for the rest; and how the learning rate rises and falls.

Notation. The gradient of a weight matrix is averaged with momentum, G, and the weight moves along
the nearest semi-orthogonal matrix U V^T of G = U S V^T: every direction moves alike, however small
its part of the gradient. In a flow on sets the narrow collective modes (the mass of a jet, its
total momentum) are such small parts. U V^T comes from five Newton-Schulz iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

__all__ = ["LAST_RATE", "Muon", "warmup_cosine"]

LAST_RATE = 1e-3
"""The learning rate at the end of `warmup_cosine`, as a fraction of the largest one."""

_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, steep at zero
_ITERATIONS = 5
_SMALLEST_SIDE = 16  # of a matrix that counts as a hidden weight
_RMS = 0.2  # of an AdamW step in units of the learning rate, which Muon's steps are scaled to
_BETAS, _EPS = (0.9, 0.999), 1e-8


class Muon(Optimizer):
    """Muon for hidden weight matrices and AdamW for all other parameters.

    Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with the scaling of
    Liu et al., "Muon is Scalable for LLM Training" (arXiv:2502.16982), so that one learning rate
    serves both. Matrices with both sides of at least 16 are hidden weights. Unlike
    `torch.optim.Muon` it takes all parameters of a model, iterates on matrices of equal shape
    together, and in their own dtype, which on a CPU is an order of magnitude faster.

    Arguments:
        params: the parameters.
        lr: the learning rate, a number or, for a step that is captured as a CUDA graph, a tensor on
            the device of the parameters, which can be filled anew between replays.
        weight_decay: decoupled weight decay.
        momentum: of Muon's average of gradients.

    Raises:
        ValueError: if the learning rate or the weight decay is negative, or the momentum outside
            [0, 1).

    >>> layer = torch.nn.Linear(32, 32)
    >>> optimizer = Muon(layer.parameters(), lr=1e-3)
    >>> layer(torch.randn(4, 32)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"expected lr >= 0, weight_decay >= 0 and 0 <= momentum < 1, got lr={lr}, "
                f"weight_decay={weight_decay}, momentum={momentum}"
            )
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; return the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            others: list[Tensor] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim == 2 and min(parameter.shape) >= _SMALLEST_SIDE:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
                else:
                    others.append(parameter)
            for matrices in by_shape.values():
                self._step_matrices(matrices, group)
            if others:
                self._step_others(others, group)
        return loss

    def _step_matrices(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        nesterov = []
        for matrix in matrices:
            assert matrix.grad is not None
            state = self.state[matrix]
            if not state:
                state["momentum"] = torch.zeros_like(matrix)
            state["momentum"].lerp_(matrix.grad, 1 - momentum)
            nesterov.append(matrix.grad.lerp(state["momentum"], momentum))
        scale = _RMS * math.sqrt(max(matrices[0].shape))
        for matrix, update in zip(matrices, orthogonalised(torch.stack(nesterov)), strict=True):
            matrix.mul_(1 - lr * group["weight_decay"]).sub_(update * (lr * scale))

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if state:  # a checkpoint may have been read on another device
                state["step"] = state["step"].to(parameter.device)
            else:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,  # the one kind that takes a rate on the device
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPS,
            maximize=False,
        )


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return U V^T, up to singular values between about 0.7 and 1.2, of matrices U S V^T.

    Arguments:
        matrices: with shape `(count, rows, columns)`.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def warmup_cosine(done: float, warmup: float) -> float:
    """Return the learning rate as a fraction of the largest one.

    It rises in a straight line over the first part of the training, then falls along a cosine to a
    thousandth (Loshchilov and Hutter, arXiv:1608.03983).

    Arguments:
        done: which fraction of the training is done, of its steps or of its time; at least 0, and
            the rate stays at its smallest beyond 1.
        warmup: in which fraction the rate rises, in [0, 1).

    >>> [round(warmup_cosine(done, 0.2), 3) for done in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.001, 0.5, 1.0, 0.501, 0.001]
    """
    if done < warmup:
        return max(LAST_RATE, done / warmup)
    falling = min(1.0, (done - warmup) / (1 - warmup))
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * falling))
