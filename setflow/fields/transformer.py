"""A permutation-equivariant transformer on sets of objects.

Notation. An event has N slots with D features. Each object is one token; in front of them stands
one global token, which every object sees and which sees every object, so that no row of the
attention is empty, not even in an event without objects. Time, context and the number of real
objects form one conditioning vector per event, which acts by adaptive layer norm. A context set of
M objects becomes M + 1 tokens, to which the objects attend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from setflow.fields.angles import frames, in_own_frame, periodic, turned
from setflow.fields.base import SetField, zeroed
from setflow.fields.embeddings import EventEmbedding
from setflow.fields.modulation import NORM_EPS, modulate
from setflow.fields.pairs import PairFeatures
from setflow.sets.angles import checked_angles
from setflow.sets.context import AnotherSet
from setflow.sets.events import Events
from setflow.sets.masks import count_real
from setflow.sets.shapes import check_sizes

__all__ = ["TransformerField"]

_PAIR_WIDTH = 32
_HEAD_WIDTH = 32  # the least number of features of a head, where the number of heads is not told
_PER_PAIR = 4  # half of the features of a head are pairs that turn with relative angles


class TransformerField(SetField):
    """A transformer velocity field: masked attention between the real objects of an event.

    Pre-norm transformer (Vaswani et al., arXiv:1706.03762) with adaptive layer norm whose gates
    start at zero (Peebles and Xie, "Scalable Diffusion Models with Transformers",
    arXiv:2212.09748), on particles as in PC-JeDi (Leigh et al., arXiv:2303.05376), which has no
    global token. A gain per feature, a function of the condition, passes the state on to the
    velocity, which for normal data would be all of it. The velocity is zero before training.

    A context with a row per object is added to the objects' embedding; the objects of a context set
    are attended to in every block, behind a gate, and one learned token stands among them, so that
    a context set may be empty.

    PyTorch differentiates its fused attention once, in reverse. Under forward mode and the
    transforms of `torch.func` the field takes the plain kernels by itself; for second derivatives
    by autograd call it inside `torch.nn.attention.sdpa_kernel` with `SDPBackend.MATH`, as the
    divergences of the library do.

    Arguments:
        dim: the number of features of one object.
        condition_dim: the number of context features per event.
        object_condition_dim: the number of context features per object, see `SetField`.
        set_condition_dim: the number of features of the objects of a context set, see `SetField`.
        hidden: the width, a multiple of `heads`.
        layers: the number of blocks.
        heads: the number of attention heads; None takes the largest divisor of `hidden` that leaves
            each head at least 32 features, or one head: on a CPU narrower heads cost up to twice as
            much. The attribute holds the number.
        expansion: the width of the feed-forward layer in units of `hidden`.
        qk_norm: normalise queries and keys of each head by their root mean square, so that
            attention cannot saturate (Henry et al., "Query-Key Normalization for Transformers",
            arXiv:2010.04245, with a learned gain per feature).
        pair_features: features of pairs of particles, a learned function of which is added to the
            attention of all blocks (Qu et al., "Particle Transformer for Jet Tagging",
            arXiv:2202.03772); None leaves that out.
        angles: the positions of the features that are angles, see `SetField`.
        relative_angles: those of the `angles` of which the field sees differences only, such as the
            azimuth around the beam, which every object must have then. Turning them in all objects
            of an event by one angle leaves the velocity as it is, so that samples and densities
            know no direction where that of the base is uniform. Half of the features of queries,
            keys and values are vectors in the frame of each object, see `setflow.fields.angles`;
            several turn together. The objects of a context set are taken as they are.

    Raises:
        ValueError: if a size is not positive, `hidden` is not a multiple of `heads`, or kinds of
            context exclude each other; if relative angles are none of the angles, or heads are too
            narrow for them.

    >>> field = TransformerField(3, hidden=32, layers=2, heads=4)
    >>> x, mask = torch.randn(8, 30, 3), torch.rand(8, 30) > 0.5
    >>> field(x, torch.rand(8), mask=mask).shape
    torch.Size([8, 30, 3])
    """

    def __init__(
        self,
        dim: int,
        *,
        condition_dim: int = 0,
        object_condition_dim: int = 0,
        set_condition_dim: int = 0,
        hidden: int = 128,
        layers: int = 4,
        heads: int | None = None,
        expansion: int = 2,
        qk_norm: bool = False,
        pair_features: PairFeatures | None = None,
        angles: Sequence[int] = (),
        relative_angles: Sequence[int] = (),
    ) -> None:
        super().__init__(
            dim,
            condition_dim=condition_dim,
            object_condition_dim=object_condition_dim,
            set_condition_dim=set_condition_dim,
            angles=angles,
        )
        given = {} if heads is None else {"heads": heads}
        check_sizes(hidden=hidden, layers=layers, expansion=expansion, **given)
        if heads is None:
            most = max(1, hidden // _HEAD_WIDTH)
            heads = next((count for count in range(most, 1, -1) if hidden % count == 0), 1)
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        if pair_features is not None and not isinstance(pair_features, PairFeatures):
            raise TypeError(f"pair_features must be PairFeatures or None, got {pair_features!r}")
        if pair_features is not None and max(pair_features.columns) >= dim:
            raise ValueError(
                f"pair_features takes the columns {pair_features.columns}, expected columns of the "
                f"{dim} features of an object, counted from 0"
            )
        if pair_features is not None:
            pair_features.require_periodic(self.angles)
        self.relative_angles = checked_angles(relative_angles, dim)
        if not set(self.relative_angles) <= set(self.angles):
            raise ValueError(
                f"relative_angles={list(self.relative_angles)}, expected some of the positions in "
                f"angles={list(self.angles)}, counted from 0 without categories; take these"
            )
        if self.relative_angles and hidden // heads < _PER_PAIR:
            raise ValueError(
                f"relative_angles need heads with {_PER_PAIR} features or more, got "
                f"{hidden // heads} from hidden={hidden} and heads={heads}; take fewer heads"
            )
        self.hidden = hidden
        self.layers = layers
        self.heads = heads
        self.expansion = expansion
        self.qk_norm = qk_norm
        self.pair_features = pair_features
        self.embed = nn.Linear(self.features_seen, hidden)
        if object_condition_dim:
            self.embed_context = nn.Linear(object_condition_dim, hidden)
        self.global_token = nn.Parameter(0.02 * torch.randn(hidden))
        event_features = condition_dim
        if set_condition_dim:
            event_features += 1  # how many objects the context has
            self.context_set = _ContextTokens(set_condition_dim, hidden)
        self.condition = EventEmbedding(event_features, hidden)
        if pair_features is not None:
            self.pair_bias = nn.Sequential(
                nn.Linear(PairFeatures.features, _PAIR_WIDTH),
                nn.SiLU(),
                zeroed(nn.Linear(_PAIR_WIDTH, heads)),
            )
        self.blocks = nn.ModuleList(
            _Block(hidden, heads, expansion, qk_norm=qk_norm, cross=set_condition_dim > 0)
            for _ in range(layers)
        )
        self.final_modulation = zeroed(nn.Linear(hidden, 2 * hidden))
        self.out = zeroed(nn.Linear(hidden, dim))
        self.skip = zeroed(nn.Linear(hidden, dim))

    def velocity(self, events: Events) -> Tensor:
        """Return the velocity of a flat batch of events; see `SetField`."""
        given, x = events.context, events.x
        row, rows = (None, None) if given is None else (given.row, given.rows)
        context = None
        if isinstance(given, AnotherSet):
            context = self.context_set(given)
            count = count_real(given.mask).to(x.dtype).log1p()[:, None]
            row = count if row is None else torch.cat([count, row], dim=-1)
        condition = self.condition(events.t, events.lengths.to(x.dtype), row)  # (events, hidden)
        told = in_own_frame(x, self.relative_angles) if self.relative_angles else x
        seen, passed = periodic(told, self.angles) if self.angles else (told, told)
        h = self.embed(seen)
        if rows is not None:
            h = h + self.embed_context(rows)
        h = torch.cat([self.global_token.to(h.dtype).expand(len(x), 1, -1), h], dim=1)
        attend = self._attend(x, events.mask)
        turns = self._turns(x) if self.relative_angles else None
        with _attention_backends(x.is_cuda):
            for block in self.blocks:
                h = block(h, condition, attend, context, turns)  # (events, 1 + slots, hidden)
        shift, scale = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        v: Tensor = (
            self.out(modulate(h[:, 1:], shift, scale)) + self.skip(condition)[:, None] * passed
        )
        return v

    def _turns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the turns of the tokens, `(events, 1, 1 + slots, pairs)`.

        Both are 0 for the global token, which has no direction: it takes and gives no vectors.
        """
        pairs = self.hidden // self.heads // _PER_PAIR
        cosine, sine = frames(x[..., self.relative_angles[0]], pairs)
        return F.pad(cosine, (0, 0, 1, 0))[:, None], F.pad(sine, (0, 0, 1, 0))[:, None]

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return what each token may attend to, or a bias; the global token is always there."""
        real = None
        if mask is not None:
            real = F.pad(mask, (1, 0), value=True)[:, None, None, :]
        if self.pair_features is None:
            return real
        bias = self.pair_bias(self.pair_features(x)).permute(0, 3, 1, 2)
        bias = F.pad(bias, (1, 0, 1, 0))  # (events, heads, 1 + slots, 1 + slots)
        return bias if real is None else bias.masked_fill(~real, -math.inf)


class _ContextTokens(nn.Module):
    """The objects of a context set as tokens, behind one that is always there."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        )
        self.empty = nn.Parameter(0.02 * torch.randn(hidden))

    def forward(self, context: AnotherSet) -> tuple[Tensor, Tensor]:
        tokens = self.net(context.x)
        first = self.empty.to(tokens.dtype).expand(len(tokens), 1, -1)
        real = F.pad(context.mask, (1, 0), value=True)[:, None, None, :]
        return torch.cat([first, tokens], dim=1), real  # (events, 1 + M, hidden)


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind an adaptive layer norm with a gate.

    With `cross`, attention to the tokens of a context stands between the two.
    """

    def __init__(
        self, hidden: int, heads: int, expansion: int, *, qk_norm: bool, cross: bool
    ) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(hidden, (9 if cross else 6) * hidden))
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.heads = _Heads(hidden, heads, qk_norm=qk_norm)
        self.project = nn.Linear(hidden, hidden)
        self.up = nn.Linear(hidden, expansion * hidden)
        self.down = nn.Linear(expansion * hidden, hidden)
        if cross:
            self.cross_q = nn.Linear(hidden, hidden)
            self.cross_kv = nn.Linear(hidden, 2 * hidden)
            self.cross_heads = _Heads(hidden, heads, qk_norm=qk_norm)
            self.cross_project = nn.Linear(hidden, hidden)

    def forward(
        self,
        h: Tensor,
        condition: Tensor,
        attend: Tensor | None,
        context: tuple[Tensor, Tensor] | None,
        turns: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        modulation: Tensor = self.modulation(condition)[:, None]  # (events, 1, 6 or 9 hidden)
        parts = modulation.chunk(6 if context is None else 9, dim=-1)
        q, k, v = self.qkv(modulate(h, *parts[0:2])).chunk(3, dim=-1)
        h = h + parts[2] * self.project(self.heads(q, k, v, attend, turns))
        if context is not None:
            tokens, real = context
            k, v = self.cross_kv(tokens).chunk(2, dim=-1)
            q = self.cross_q(modulate(h, *parts[6:8]))
            h = h + parts[8] * self.cross_project(self.cross_heads(q, k, v, real))
        fed: Tensor = self.down(F.gelu(self.up(modulate(h, *parts[3:5]))))
        return torch.addcmul(h, parts[5], fed)


class _Heads(nn.Module):
    """Scaled dot-product attention of several heads."""

    def __init__(self, hidden: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.gains = nn.Parameter(torch.ones(2, hidden // heads)) if qk_norm else None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attend: Tensor | None,
        turns: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the mixed values, with the shape of `q`: `(events, tokens, hidden)`.

        With `turns`, cosine and sine, the pairs among the features of a head are vectors in the
        frame of each token.
        """
        shape = q.shape
        split = (self.heads, shape[-1] // self.heads)
        q, k, v = (part.reshape(*part.shape[:2], *split).transpose(1, 2) for part in (q, k, v))
        if self.gains is not None:
            q, k = (
                F.rms_norm(part, split[1:], gain.to(part.dtype), eps=NORM_EPS)
                for part, gain in zip((q, k), self.gains, strict=True)
            )
        if attend is not None and attend.is_floating_point():
            attend = attend.to(q.dtype)
        if turns is not None:
            cosine, sine = (part.to(q.dtype) for part in turns)
            q, k, v = turned(torch.stack([q, k, v]), cosine, sine)  # at once: fewer strided copies
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        if turns is not None:
            mixed = turned(mixed, cosine, -sine)
        return mixed.transpose(1, 2).reshape(shape)


def _attention_backends(on_cuda: bool) -> AbstractContextManager[None]:
    """Choose kernels that are right for what is asked.

    Under a transform or forward mode only the plain ones have derivatives and batching rules.
    Otherwise cuDNN is left out, whose backward pass can return NaN under a mask on Hopper GPUs; of
    the others those stay that the caller allows.
    """
    functorch: Any = torch._C._functorch  # no public function asks for transforms
    if not torch.compiler.is_compiling() and (
        functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    ):
        return sdpa_kernel([SDPBackend.MATH])
    if not on_cuda:
        return nullcontext()
    fused = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    kept = [backend for backend, allowed in zip(fused, _allowed(), strict=True) if allowed]
    return sdpa_kernel(kept) if kept else nullcontext()


def _allowed() -> tuple[bool, bool, bool]:
    """Return whether the caller allows flash, memory-efficient and plain attention.

    A compiled field keeps the answer of its first call: asking would break its graph.
    """
    cuda: Any = torch.backends.cuda  # its functions carry no types
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


# what `torch.compiler.assume_constant_result` does; calling it would import the whole compiler
_allowed._dynamo_marked_constant = True  # type: ignore[attr-defined]
