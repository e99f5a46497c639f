"""Jets of every kind that a file may hold, and a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from setflow.data.jets import JetSample
from setflow.data.writing import JetWriter
from setflow.schema import JETNET
from setflow.sets.batch import SetBatch


def make_sample(n: int, objects: int = 30, seed: int = 0) -> JetSample:
    """Jets with holes in the mask, empty jets, full jets, and rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, objects, 3, generator=generator, dtype=torch.float32) - 0.5
    x[..., 2] += 0.5
    mask = torch.rand(n, objects, generator=generator) < 0.6
    mask[0], mask[-1] = True, False
    x[~mask] = torch.nan
    jets = torch.rand(n, 4, generator=generator, dtype=torch.float32)
    jets[:, 3] = mask.sum(-1)
    types = torch.randint(1, 9, (n, objects), generator=generator).to(torch.int8)
    types[~mask] = 99
    events = torch.arange(n) // 2 + 2**40
    return JetSample(SetBatch(x, mask), jets, JETNET, types, events)


def write_sample(
    path: Path, sample: JetSample, sizes: list[int] | None = None, **options: Any
) -> Path:
    options = {"objects": sample.particles.mask.shape[1], **options}
    with JetWriter(path, with_types=True, with_events=True, **options) as writer:
        start = 0
        for size in sizes or [len(sample)]:
            part = sample[start : start + size]
            writer.write(part.particles, part.jets, part.particle_type, part.event_number)
            start += size
        assert writer.n == start == len(sample)
    return path
