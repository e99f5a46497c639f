"""What a field makes of features that are angles, so that its velocity has their period.

Notation. Of an angle a the layers of a field get cos a, sin a, cos 2a and sin 2a in its place, and
where the state is passed on to the velocity, sin a.

Angles that are directions of the whole event, such as azimuths around the beam, may be left out of
that. Then what an object i is told is invariant: it stands in a frame that turns with its own angle
phi_i. A pair (a, b) of features of an object j is a vector of frequency k in that frame, is turned
by k phi_j into the common one, where vectors of different objects may be compared and added, and
what object i makes of them by -k phi_i into its own. So objects see phi_j - phi_i, and nothing is
changed by turning all of them. For frequencies that are whole numbers it is smooth and has the
period 2 pi (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
arXiv:2104.09864, turn queries and keys; Miyato et al., "GTA: A Geometry-Aware Attention Mechanism
for Multi-View Transformers", arXiv:2310.10375, values and outputs too).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SEEN", "frames", "in_own_frame", "on_circles", "periodic", "turned"]

SEEN = 4
"""How many columns the layers get of an angle."""

_FREQUENCIES = 8


def periodic(x: Tensor, angles: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return what the layers of a field get of a state, and what is passed on to the velocity.

    Arguments:
        x: the state, with shape `(*, D)`.
        angles: the positions of the features that are angles.

    Returns:
        The features on lines and then `SEEN` columns of each angle, in the last dimension; and the
        state with the sine of each angle in its place, with the shape of `x`.

    >>> seen, passed = periodic(torch.tensor([[2.0, torch.pi / 2]]), [1])
    >>> seen.round().int(), passed
    (tensor([[ 2,  0,  1, -1,  0]], dtype=torch.int32), tensor([[2., 1.]]))
    """
    passed = list(x.unbind(-1))
    seen = [column for k, column in enumerate(passed) if k not in angles]
    for k in angles:
        cosine, sine = passed[k].cos(), passed[k].sin()
        seen += [cosine, sine, 2 * cosine**2 - 1, 2 * cosine * sine]
        passed[k] = sine
    return torch.stack(seen, -1), torch.stack(passed, -1)


def on_circles(x: Tensor, angles: Sequence[int]) -> Tensor:
    """Return features whose differences are distances: of each angle its cosine and sine.

    Arguments:
        x: the state, with shape `(*, D)`.
        angles: the positions of the features that are angles.
    """
    columns = [x[..., k] for k in range(x.shape[-1]) if k not in angles]
    for k in angles:
        columns += [x[..., k].cos(), x[..., k].sin()]
    return torch.stack(columns, -1)


def in_own_frame(x: Tensor, directions: Sequence[int]) -> Tensor:
    """Return a state as each object tells it in a frame that turns with its first direction.

    Arguments:
        x: the state, with shape `(*, D)`.
        directions: the positions of the angles that turn with the event; the first becomes 0, the
            others their differences from it.
    """
    columns = list(x.unbind(-1))
    for k in directions:
        columns[k] = x[..., k] - x[..., directions[0]]
    return torch.stack(columns, -1)


def frames(direction: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the turns of pairs of features from frame to frame.

    Arguments:
        direction: the angle of the frame of each object, with shape `(*, N)`.
        pairs: how many pairs there are; their frequencies are 1 to 8, again and again.

    Returns:
        Two tensors with shape `(*, N, pairs)`.
    """
    places = torch.arange(pairs, device=direction.device)
    angle = direction[..., None] * (1 + places % _FREQUENCIES)
    return angle.cos(), angle.sin()


def turned(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return features with the pairs among them turned.

    Arguments:
        values: features with shape `(*, W)`: behind those that stand still the first and then the
            second ones of all pairs.
        cosine: that of the turn of each pair, with shape `(*, pairs)`.
        sine: its sine; the negative one turns back.

    >>> turned(torch.tensor([5.0, 1.0, 0.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([5., 0., 1.])
    """
    pairs = cosine.shape[-1]
    still, a, b = values.split_with_sizes([values.shape[-1] - 2 * pairs, pairs, pairs], -1)
    return torch.cat([still, a * cosine - b * sine, a * sine + b * cosine], -1)
