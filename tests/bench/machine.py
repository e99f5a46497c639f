"""What a result was measured on: it stands at the head of every kept log and table."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from setflow.environment import commit, processor

REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torch-geometric", "torch-scatter", "numpy")


def described() -> list[str]:
    """Return lines on processor, accelerator, versions, commit and date; no name of a host."""
    lines = [
        f"processor: {processor()}, {platform.machine()}, {os.cpu_count()} cores; "
        f"torch runs {torch.get_num_threads()} threads"
    ]
    if torch.cuda.is_available():
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        lines.append(
            f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, "
            f"cuDNN {torch.backends.cudnn.version()}, driver {driver.splitlines()[0]}"
        )
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    lines.append("versions: " + ", ".join(versions))
    lines.append(f"commit: {_commit()}")
    lines.append(f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    return lines


def _commit() -> str:
    """Return the commit, which COMMIT tells where a source tree was copied without its history."""
    return os.environ.get("COMMIT") or commit() or "unknown"


def _output(*command: str) -> str:
    try:
        ran = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return ran.stdout.strip()


if __name__ == "__main__":
    sys.stdout.write("\n".join(described()) + "\n\n")
