"""Points that follow the exact velocity between noise and two peaks, over the density."""

import itertools

import matplotlib.pyplot as plt
import torch
from style import BLUE, GREY

CENTRES, WIDTH = torch.tensor([-1.5, 1.5], dtype=torch.float64), 0.3


def velocity(x, t):
    """Return E[x_1 - x_0 | x_t = x] for equal peaks, on the path x_t = (1 - t) x_0 + t x_1."""
    mean, variance = (1 - t) * CENTRES, ((1 - t) * WIDTH) ** 2 + t**2
    pull = x[..., None] - mean  # (*x, 2)
    share = (-(pull**2) / (2 * variance)).softmax(-1)
    slope = (t - (1 - t) * WIDTH**2) / variance
    return (share * (slope * pull - CENTRES)).sum(-1)


def density(x, t):
    """Return the density of x_t."""
    variance = ((1 - t) * WIDTH) ** 2 + t**2
    squares = (x[..., None] - (1 - t) * CENTRES) ** 2
    return (-squares / (2 * variance)).exp().mean(-1) / (2 * torch.pi * variance) ** 0.5


times = torch.linspace(1, 0, 201, dtype=torch.float64)
points = [torch.linspace(-2.2, 2.2, 22, dtype=torch.float64)]
for start, end in itertools.pairwise(times):
    middle = points[-1] + (end - start) / 2 * velocity(points[-1], start)
    points.append(points[-1] + (end - start) * velocity(middle, (start + end) / 2))

heights = torch.linspace(-3, 3, 301, dtype=torch.float64)
shade = torch.stack([density(heights, t) for t in times], 1)
figure, (left, axes, right) = plt.subplots(
    1, 3, figsize=(7, 3.2), sharey=True, width_ratios=[1, 6, 1]
)
axes.pcolormesh(times, heights, shade.sqrt(), cmap="Blues", shading="nearest", vmax=1.1)
axes.plot(times, torch.stack(points), color="black", linewidth=0.7, alpha=0.7)
axes.set(xlim=(1, 0), xlabel="time $t$", title="points follow the velocity")
axes.grid(False)
left.fill_betweenx(heights, shade[:, 0], color=GREY, alpha=0.6)
left.set(title="noise, $t = 1$", ylabel="$x$", xlim=(0.75, 0), xticks=[])
right.fill_betweenx(heights, shade[:, -1], color=BLUE, alpha=0.6)
right.set(title="data, $t = 0$", xlim=(0, 0.75), xticks=[])
