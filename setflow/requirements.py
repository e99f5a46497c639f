"""What setflow needs and what its extras bring: asked of the installation, never copied by hand.

In a clone pyproject.toml says it, since the metadata of an editable install are those of the day
when it was made; elsewhere the metadata of the installed package do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from setflow.shipped import clone

__all__ = ["COMPROMISED", "Need", "needs"]

COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Uploads that somebody else had put malicious code into, by package."""


@dataclass(frozen=True)
class Need:
    """One package that is needed.

    Arguments:
        name: the package.
        requirement: what is needed, as pip takes it.
        found: the version that is installed, or None.
        right: whether it is one that is allowed.
        compromised: whether it is an upload with malicious code.
    """

    name: str
    requirement: str
    found: str | None
    right: bool
    compromised: bool = False

    def problem(self) -> str | None:
        """Return what is wrong with what is installed, or None.

        >>> Need("torch", "torch>=2.10", "2.4", False).problem()
        'torch is 2.4, expected >=2.10'
        """
        if self.compromised:
            return f"{self.name} {self.found} is a compromised upload, remove it at once"
        if self.found is None:
            return f"{self.name} is missing"
        expected = self.requirement.removeprefix(self.name)
        return None if self.right else f"{self.name} is {self.found}, expected {expected}"


def needs() -> dict[str, list[Need]]:
    """Return what is needed: under the empty name the base, then each extra by its name.

    Raises:
        FileNotFoundError: if setflow is imported from a bare tree, which tells no requirements.
    """
    base, extras = _of_clone() or _of_installation()
    found = {"": [_need(part) for part in base]}
    for extra in extras:
        found[extra] = [_need(part) for part in sorted(_expanded(extra, extras, set()), key=str)]
    return found


Declared = tuple[list[Requirement], dict[str, list[Requirement]]]


def _of_clone() -> Declared | None:
    root = clone()
    if root is None:
        return None
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    return (
        _those(project["dependencies"]),
        {name: _those(texts) for name, texts in extras.items()},
    )


def _of_installation() -> Declared:
    try:
        told = metadata.distribution("setflow")
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            "setflow is imported from a bare tree, so nothing tells what it needs; install it, "
            "pip install setflow, or run in a clone of the repository"
        ) from None
    texts = told.requires or []
    base = _those(texts)
    names = told.metadata.get_all("Provides-Extra") or []
    extras = {name: [part for part in _those(texts, name) if part not in base] for name in names}
    return base, extras


def _those(texts: Sequence[str], extra: str = "") -> list[Requirement]:
    """Return the requirements that count on this machine, with an extra or without one."""
    parts = map(Requirement, texts)
    return [part for part in parts if not part.marker or part.marker.evaluate({"extra": extra})]


def _expanded(
    extra: str, extras: Mapping[str, list[Requirement]], seen: set[str]
) -> set[Requirement]:
    """Return the requirements of an extra, with those of the extras that it names."""
    parts: set[Requirement] = set()
    seen.add(extra)
    for part in extras[extra]:
        if part.name == "setflow":
            for other in part.extras - seen:
                parts |= _expanded(other, extras, seen)
        else:
            parts.add(part)
    return parts


def _need(part: Requirement) -> Need:
    requirement = f"{part.name}{part.specifier}"
    try:
        found = metadata.version(part.name)
    except metadata.PackageNotFoundError:
        return Need(part.name, requirement, None, right=False)
    bad = found in COMPROMISED.get(part.name, ())
    right = not bad and part.specifier.contains(found, prereleases=True)
    return Need(part.name, requirement, found, right, bad)
