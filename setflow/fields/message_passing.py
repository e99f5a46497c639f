"""Messages along the edges of a graph, through torch-geometric, which this module imports.

Notation. E events of N slots are one graph of E N nodes; each node receives along k edges, so that
the edges of all nodes stand in one tensor of E N k rows, those of a node together. The edge from j
to i has a weight w_ij between 0 and 1. An edge that should not exist has the weight 0 and leads to
a dead node behind the others, which is cut off: the shapes depend on E, N and k only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch_geometric.typing
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import segment

__all__ = ["EDGE_FEATURES", "Edges", "WeightedMessages"]

EDGE_FEATURES = 3
_LARGEST_SCORE = 5.0


class Edges(NamedTuple):
    """The edges of a batch of events.

    Attributes:
        ends: senders and receivers, with shape `(2, E N k)`, counted over all events.
        weight: the weights, with shape `(E N, k)`, zero for edges that do not exist.
        features: functions of the distance, with shape `(E N, k, EDGE_FEATURES)`.
    """

    ends: Tensor
    weight: Tensor
    features: Tensor


class WeightedMessages(MessagePassing):  # type: ignore[misc]
    """The weighted mean over the neighbours of messages that depend on both ends of an edge.

    The message is that of EdgeConv (Wang et al., "Dynamic Graph CNN for Learning on Point Clouds",
    arXiv:1801.07829), m_ij = SiLU(A h_i + B h_j + C e_ij), with the linear maps of the ends applied
    before they are copied to the edges. It arrives as

        sum_j s_ij m_ij / (1 + sum_j s_ij),

    where s_ij = w_ij, or, with attention, w_ij exp(a_h(m_ij)) in each head h. The score a_h of a
    message, one as in GATv2 (Brody et al., "How Attentive are Graph Attention Networks?",
    arXiv:2105.14491), is kept within 5 and -5. The 1 stands for the node itself: a node without
    neighbours receives zero, and a neighbour whose weight goes to zero leaves without a jump.

    Arguments:
        inputs: the number of features of a node.
        messages: the length of a message, a multiple of `heads`.
        heads: the number of attention heads; 0 for none.
    """

    def __init__(self, inputs: int, messages: int, heads: int) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.heads = heads
        self.receiver = nn.Linear(inputs, messages)
        self.sender = nn.Linear(inputs, messages, bias=False)
        self.edge = nn.Linear(EDGE_FEATURES, messages, bias=False)
        if heads:
            self.score = nn.Linear(messages, heads, bias=False)

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Return what each node receives, with shape `(E N, messages)`.

        Arguments:
            nodes: the nodes, with shape `(E N, inputs)`.
            edges: the edges between them.
        """
        count = len(nodes)
        received: Tensor = self.propagate(
            edges.ends,
            size=(count, count + 1),
            sender=self.sender(nodes),
            receiver=self.receiver(nodes),
            edge=self.edge(edges.features),
            weight=edges.weight,
        )
        return received[:count].to(nodes.dtype)

    def message(
        self, sender_j: Tensor, receiver: Tensor, edge: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the messages, each times its strength, and the strengths, a column per head."""
        # these are the largest tensors: use their memory again, where no transform forbids it
        ours = is_compiling() or torch._C._functorch.maybe_current_level() is None
        forget = ours and not torch.is_grad_enabled()
        sender = sender_j.view(edge.shape)
        if ours:
            ends = sender.add_(edge).add_(receiver[:, None])
        else:
            ends = sender + edge + receiver[:, None]
        messages = F.silu(ends, inplace=forget)  # (nodes, k, messages)
        strength = weight[..., None]
        if self.heads:
            score = self.score(messages).to(weight.dtype) / _LARGEST_SCORE
            strength = strength * (_LARGEST_SCORE * score.tanh()).exp()
        strong = _heads_apart(messages, strength)
        if forget and strong.dtype == strength.dtype:  # autocast makes them differ
            strong = strong.mul_(strength[..., None])
        else:
            strong = strong * strength[..., None]
        return strong.flatten(2).flatten(0, 1), strength.flatten(0, 1)

    def aggregate(self, inputs: tuple[Tensor, Tensor], index: Tensor, dim_size: int) -> Tensor:
        """Return the weighted means, a row for each node."""
        total, strength = (self._sum(part, index, dim_size) for part in inputs)
        means: Tensor = _heads_apart(total, strength) / (1 + strength)[..., None]
        return means.flatten(1)

    def _sum(self, values: Tensor, index: Tensor, dim_size: int) -> Tensor:
        nodes = dim_size - 1
        if torch_geometric.typing.WITH_TORCH_SCATTER and nodes and not is_compiling():
            apply: Any = _SumOfRuns.apply  # which carries no types
            total: Tensor = apply(values, nodes)
        else:
            total = self.aggr_module(values, index, dim_size=dim_size, dim=0)
        return total


class _SumOfRuns(torch.autograd.Function):
    """The sums of equally many rows each, by torch-scatter, whose kernels know no transforms.

    What an edge to the dead node carries has no weight, and need not be kept from its run.
    """

    @staticmethod
    def forward(values: Tensor, runs: int) -> Tensor:
        starts = torch.arange(runs + 1, device=values.device) * (len(values) // runs)
        total: Tensor = segment(values, starts, reduce="sum")
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        values, ctx.runs = inputs
        ctx.length = len(values) // ctx.runs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.repeat_interleave(ctx.length, 0), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        apply: Any = _SumOfRuns.apply
        total: Tensor = apply(tangent, ctx.runs)
        return total

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], values: Tensor, runs: int) -> tuple[Tensor, int]:
        rows = values.movedim(in_dims[0], 0)  # (batch, rows, columns)
        apply: Any = _SumOfRuns.apply
        total: Tensor = apply(rows.flatten(0, 1), info.batch_size * runs)
        return total.reshape(info.batch_size, runs, rows.shape[-1]), 0


def _heads_apart(values: Tensor, strength: Tensor) -> Tensor:
    """Return `(..., messages)` as `(..., heads, messages / heads)`."""
    heads = strength.shape[-1]
    return values.view(*values.shape[:-1], heads, values.shape[-1] // heads)
