"""Time densities: at which times on the path a field is trained.

Notation. t = 0 is data and t = 1 is noise. The minimiser of the loss at each time does not depend
on how often that time is drawn, but a network of finite size and training does.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shifted_uniform"]


def shifted_uniform(
    shape: tuple[int, ...],
    shift: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw t = s u / (1 + (s - 1) u) with u uniform on [0, 1).

    The timestep shift of Esser et al., "Scaling Rectified Flow Transformers" (arXiv:2403.03206):
    s > 1 moves times towards the noise, s < 1 towards the data, where correlations between objects
    that are narrower than the objects' own spread are decided; s = 1 is uniform.

    Arguments:
        shape: the shape of the result.
        shift: s, positive.
        generator: the random generator.
        device: where to draw.
        dtype: the floating dtype; None takes torch's default.

    Raises:
        ValueError: if `shift` is not positive.

    >>> shifted_uniform((100_000,), 0.5).median().round(decimals=1)
    tensor(0.3000)
    """
    if not shift > 0:
        raise ValueError(f"shift must be positive, got {shift}")
    u = torch.rand(shape, generator=generator, device=device, dtype=dtype)
    return shift * u / (1 + (shift - 1) * u)
