"""What a field makes of features that are angles, so that its velocity has their period.

Notation. Of an angle a the layers of a field get cos a, sin a, cos 2a and sin 2a in its place, and
where the state is passed on to the velocity, sin a.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SEEN", "on_circles", "periodic"]

SEEN = 4
"""How many columns the layers get of an angle."""


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
