"""A permutation-equivariant transformer on sets of objects.

Notation. An event has N slots with D features. Each object is one token; in front of them stands
one global token, which every object sees and which sees every object, so that no row of the
attention is empty, not even in an event without objects. Time, context and the number of real
objects form one conditioning vector per event, which acts by adaptive layer norm.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from setflow.core.masks import count_real, zero_padding
from setflow.core.specs import event_numel
from setflow.fields.base import VectorField, checked_inputs
from setflow.fields.embeddings import FourierTime

__all__ = ["TransformerField"]

_TIME_FEATURES = 32
_NORM_EPS = 1e-6


class TransformerField(VectorField):
    """A transformer velocity field: masked attention between the real objects of an event.

    Pre-norm transformer (Vaswani et al., arXiv:1706.03762) with adaptive layer norm whose gates
    start at zero (Peebles and Xie, "Scalable Diffusion Models with Transformers",
    arXiv:2212.09748), on particles as in PC-JeDi (Leigh et al., arXiv:2303.05376), which has no
    global token. A gain per feature, a function of the condition, passes the state on to the
    velocity, which for normal data would be all of it. The velocity is zero before training.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        hidden: the width, a multiple of `heads`.
        layers: the number of blocks.
        heads: the number of attention heads.
        expansion: the width of the feed-forward layer in units of `hidden`.

    Raises:
        ValueError: if a size is not positive, or `hidden` is not a multiple of `heads`.

    >>> field = TransformerField(3, hidden=32, layers=2, heads=4)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> field(x, torch.rand(8), mask=mask).shape
    torch.Size([8, 30, 3])
    """

    takes_mask = True
    event_ndim = 2

    def __init__(
        self,
        dim: int,
        *,
        condition_dim: int = 0,
        hidden: int = 128,
        layers: int = 4,
        heads: int = 8,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        if min(dim, hidden, layers, heads, expansion) < 1 or condition_dim < 0:
            raise ValueError(
                f"sizes must be positive, got dim={dim}, hidden={hidden}, layers={layers}, "
                f"heads={heads}, expansion={expansion}, condition_dim={condition_dim}"
            )
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.dim = dim
        self.condition_dim = condition_dim
        self.hidden = hidden
        self.layers = layers
        self.heads = heads
        self.expansion = expansion
        self.embed = nn.Linear(dim, hidden)
        self.global_token = nn.Parameter(0.02 * torch.randn(hidden))
        self.time = FourierTime(_TIME_FEATURES)
        self.condition = nn.Sequential(
            nn.Linear(_TIME_FEATURES + 1 + condition_dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )
        self.blocks = nn.ModuleList(_Block(hidden, heads, expansion) for _ in range(layers))
        self.final_modulation = _zero_linear(hidden, 2 * hidden)
        self.out = _zero_linear(hidden, dim)
        self.skip = _zero_linear(hidden, dim)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity.

        Arguments:
            x: the state, with shape `(*lead, N, dim)`.
            t: the time, a number or a tensor with shape `lead`.
            c: the context, with shape `(*lead, condition_dim)`.
            mask: boolean mask with shape `(*lead, N)`, or None for all real.

        Returns:
            The velocity, with the shape of `x`, zero in padded slots.

        Raises:
            ValueError: if a shape does not fit.
        """
        lead, time, mask = checked_inputs(
            self, x, t, c, mask, features=(self.dim,), condition_dim=self.condition_dim
        )
        slots, events = x.shape[-2], event_numel(lead)
        if mask is None:
            attend, n = None, time.new_full((events,), float(slots))
        else:
            flat_mask = mask.reshape(events, slots)
            n = count_real(flat_mask).to(time.dtype)
            attend = F.pad(flat_mask, (1, 0), value=True)[:, None, None, :]
        parts = [self.time(time.reshape(events)), n.log1p()[:, None]]
        if c is not None:
            parts.append(c.reshape(events, self.condition_dim))
        condition = self.condition(torch.cat(parts, dim=-1))  # (events, hidden)

        flat = zero_padding(x, mask).reshape(events, slots, self.dim)
        h = self.embed(flat)
        h = torch.cat([self.global_token.to(h.dtype).expand(events, 1, -1), h], dim=1)
        with _attention_backends(x):
            for block in self.blocks:
                h = block(h, condition, attend)  # (events, 1 + slots, hidden)
        shift, scale = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        v = self.out(_modulate(h[:, 1:], shift, scale)) + self.skip(condition)[:, None] * flat
        return zero_padding(v.reshape(x.shape), mask)


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind an adaptive layer norm with a gate."""

    def __init__(self, hidden: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = _zero_linear(hidden, 6 * hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.project = nn.Linear(hidden, hidden)
        self.up = nn.Linear(hidden, expansion * hidden)
        self.down = nn.Linear(expansion * hidden, hidden)

    def forward(self, h: Tensor, condition: Tensor, attend: Tensor | None) -> Tensor:
        modulation: Tensor = self.modulation(condition)[:, None]  # (events, 1, 6 hidden)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        h = h + gate_a * self._attention(_modulate(h, shift_a, scale_a), attend)
        fed: Tensor = self.down(F.gelu(self.up(_modulate(h, shift_f, scale_f))))
        return torch.addcmul(h, gate_f, fed)

    def _attention(self, h: Tensor, attend: Tensor | None) -> Tensor:
        events, tokens, hidden = h.shape
        qkv = self.qkv(h).reshape(events, tokens, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (events, heads, tokens, hidden / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(events, tokens, hidden))
        return projected


def _modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(h, h.shape[-1:], eps=_NORM_EPS)
    return torch.addcmul(shift, normed, 1 + scale)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _attention_backends(x: Tensor) -> AbstractContextManager[None]:
    """Leave out cuDNN, whose backward pass can return NaN under a mask on Hopper GPUs.

    Of the others, those stay that the caller allows: a divergence asks for the plain kernels.
    """
    if not x.is_cuda:
        return nullcontext()
    cuda: Any = torch.backends.cuda  # its functions carry no types
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
    }
    return sdpa_kernel([backend for backend, enabled in allowed.items() if enabled])
