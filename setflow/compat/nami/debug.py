"""What tensors are, told in a few lines."""

from torch import Tensor

from setflow.compat.nami.core.specs import split_event

__all__ = ["describe"]


def describe(
    x: Tensor | None = None,
    c: Tensor | None = None,
    t: Tensor | None = None,
    event_ndim: int | None = None,
) -> str:
    """Return shape, dtype and device of each tensor that is given, one to a line.

    Arguments:
        x: the state, with shape `(*lead, *event_shape)`.
        c: the context.
        t: the time.
        event_ndim: how many trailing dimensions of `x` form one event; None leaves lead and event
            shape out.

    >>> print(describe(torch.zeros(8, 30, 3), t=torch.zeros(8), event_ndim=2))
    x: shape (8, 30, 3), lead (8,), event (30, 3), torch.float32, cpu
    t: shape (8,), torch.float32, cpu
    """
    lines = []
    for name, tensor in (("x", x), ("c", c), ("t", t)):
        if tensor is None:
            continue
        shapes = f"shape {tuple(tensor.shape)}"
        if name == "x" and event_ndim is not None:
            lead, event = split_event(tensor, event_ndim)
            shapes += f", lead {lead}, event {event}"
        lines.append(f"{name}: {shapes}, {tensor.dtype}, {tensor.device}")
    return "\n".join(lines)
