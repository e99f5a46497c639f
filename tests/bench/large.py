"""Files of jets of any size, for what is claimed of large ones.

python -m bench.large OUT --gigabytes 2

The jets are drawn, not simulated: 20 to 80 particles in 150 slots, two jets to an event. They are
written as `setflow dataset make` writes, block by block, without compression unless it is asked
for: what is measured is the reading, and how well noise can be packed says nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from setflow import SetBatch
from setflow.data import JetWriter

SLOTS, BLOCK = 150, 8192
BYTES = SLOTS * 4 * 4  # of a jet in the file


def write_jets(path: Path, gigabytes: float, *, compression: int = 0, seed: int = 0) -> int:
    """Write a file of about so many gigabytes; return the number of jets."""
    n = max(BLOCK, int(gigabytes * 1e9 / BYTES) // BLOCK * BLOCK)
    generator = torch.Generator().manual_seed(seed)
    with JetWriter(path, objects=SLOTS, with_events=True, compression=compression) as writer:
        for first in range(0, n, BLOCK):
            writer.write(*_jets(generator, first))
    return n


def _jets(generator: torch.Generator, first: int) -> tuple[object, ...]:
    """Return jets of a block: particles, features of the jets, no types, and event numbers."""
    lengths = torch.randint(20, 81, (BLOCK,), generator=generator)
    mask = torch.arange(SLOTS) < lengths[:, None]
    x = torch.empty(BLOCK, SLOTS, 3)
    x[..., :2].normal_(0, 0.1, generator=generator)
    x[..., 2].exponential_(generator=generator).clamp_(1e-6)
    x[..., 2] *= mask
    x[..., 2] = (x[..., 2] / x[..., 2].sum(1, keepdim=True)).clamp(1e-7)
    pt = 500 + 500 * torch.rand(BLOCK, generator=generator)
    eta = torch.randn(BLOCK, generator=generator).clamp(-2, 2)
    jets = torch.stack([pt, eta, 0.2 * pt, lengths.float()], -1)
    number = (first + torch.arange(BLOCK)) // 2
    return SetBatch(x, mask), jets, None, number


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a large file of drawn jets.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--compression", type=int, default=0)
    arguments = parser.parse_args()
    write_jets(arguments.out, arguments.gigabytes, compression=arguments.compression)


if __name__ == "__main__":
    main()
