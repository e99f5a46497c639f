"""Measure setflow beside its peers and write the table anew after every row."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from bench.machine import described
from bench.peers.table import Comparison, Row, Section, document, measured, peak
from setflow.files import write_text

PEERS = ("flow_matching", "torchdiffeq", "zuko", "torchcfm", "fastjet", "scipy")
SUBJECTS = {
    "training": "Training",
    "sampling": "Sampling",
    "likelihood": "Likelihood",
    "calls": "Small calls",
    "metrics": "Metrics",
    "growth": "Growth in objects and events",
}
NESTED = "The PyTorch API of nested tensors"
"""How PyTorch begins to warn of what its own fast path makes."""

_PEAK_SIZES = (1024, 1536, 2048)


def main() -> None:
    """Run the subjects that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--out", type=Path, help="the file to write the table to")
    parser.add_argument("--trial", action="store_true", help="small sizes: minutes, and no numbers")
    parser.add_argument("--only", default="", help="measure rows that have this regular expression")
    parser.add_argument(
        "--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="what to measure"
    )
    options = parser.parse_args()
    require_peers()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", NESTED, UserWarning)
    head = [*described(), f"peers: {versions()}", f"peak at the start: {_peaks()}"]
    if options.trial:
        head.append("A trial run, whose sizes are too small to tell anything.")
    sections: list[Section] = []
    started = time.process_time()
    for name in options.subjects:
        section = Section(SUBJECTS[name])
        sections.append(section)
        for comparison in comparisons_of(name, trial=options.trial):
            if re.search(options.only, f"{comparison.label} {comparison.against}"):
                section.rows.append(measured(comparison))
                sys.stdout.write(" | ".join(section.rows[-1].cells()) + "\n")
                sys.stdout.flush()
                _keep(options.out, head, sections)
        section.notes += notes_of(name, section.rows)
    head.append(f"peak at the end: {_peaks()}")
    head.append(f"the run took {(time.process_time() - started) / 60:.0f} minutes of one core")
    _keep(options.out, head, sections)


def _keep(out: Path | None, head: list[str], sections: list[Section]) -> None:
    if out is not None:
        write_text(out, document(head, sections))


def comparisons_of(name: str, *, trial: bool) -> Iterator[Comparison]:
    """Return the comparisons of a subject, the same random numbers for each."""
    torch.manual_seed(0)
    found: Iterator[Comparison] = importlib.import_module(f"bench.peers.{name}").comparisons(
        trial=trial
    )
    return found


def notes_of(name: str, rows: list[Row]) -> list[str]:
    """Return what is said below the table of a subject."""
    if name == "growth":
        return importlib.import_module("bench.peers.growth").exponents(rows)
    return []


def require_peers() -> None:
    """End with what is missing, before anything is measured."""
    missing = [package for package in PEERS if importlib.util.find_spec(package) is None]
    if "ENERGYFLOW_PYTHON" not in os.environ:
        missing.append("energyflow (ENERGYFLOW_PYTHON names the Python that has it)")
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; make bench-peers installs what it needs")


def versions() -> str:
    """Return the versions of the peers."""
    return ", ".join(f"{package} {metadata.version(package)}" for package in PEERS)


def _peaks() -> str:
    rates = (f"{max(peak(n) for _ in range(3)) / 1e9:.0f} at {n:,}" for n in _PEAK_SIZES)
    return f"GFLOP/s of torch.mm, {', '.join(rates)} rows"


if __name__ == "__main__":
    main()
