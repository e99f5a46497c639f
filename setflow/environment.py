"""What a computation ran on: processor, versions and commit; no name of a host.

It stands on the cards of models and in what `setflow doctor` prints.
"""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from setflow.shipped import clone
from setflow.version import __version__

__all__ = ["commit", "processor", "versions"]


def processor() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown processor"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of setflow, of Python, and of those packages that are installed.

    >>> sorted(versions("numpy", "no-such-package"))
    ['Python', 'numpy', 'setflow']
    """
    found = {"setflow": __version__, "Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the clone that the package is imported from, or None if it is in none.

    `with changes` stands behind it if files differ from it.
    """
    root = clone()
    if root is None or not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    return f"{head} with changes" if _git(root, "status", "--porcelain") else head


def _git(root: Path, *command: str) -> str | None:
    """Return what git prints in a folder, or None if there is no git, or it cannot say."""
    try:
        ran = subprocess.run(
            ["git", *command], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()
