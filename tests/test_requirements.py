"""Requirements are those of pyproject.toml, asked of the clone or of the installed package."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from setflow import requirements
from setflow.requirements import COMPROMISED, needs

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())[
    "project"
]
METADATA = """Metadata-Version: 2.4
Name: setflow
Version: 9.9
Provides-Extra: other
Provides-Extra: train
Requires-Dist: numpy>=2
Requires-Dist: torch>=2.10
Requires-Dist: nowhere>=1; sys_platform == 'no such system'
Requires-Dist: setflow[train]; extra == 'other'
Requires-Dist: no-such-package<2,>=1; extra == 'other'
Requires-Dist: lightning>=2.6.6; extra == 'train'
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package, and versions of others by name; None where one is missing."""
    (tmp_path / "METADATA").write_text(METADATA)
    found: dict[str, str | None] = {}

    def version(name):
        if found.get(name) is None:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(requirements, "clone", lambda: None)
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(tmp_path))
    monkeypatch.setattr(metadata, "version", version)
    found.update({"numpy": "2.1", "torch": "2.13.0+cpu", "lightning": "2.6.6"})
    return found


def test_a_clone_needs_what_its_pyproject_says():
    found = needs()
    names = [need.name for need in found.pop("")]
    assert names == [text.partition(">")[0] for text in PROJECT["dependencies"]]
    assert found.keys() == PROJECT["optional-dependencies"].keys()
    assert {need.name for need in found["train"]} == {"lightning", "jsonargparse", "tensorboard"}
    # an extra that names others brings what these bring
    assert {need.name for need in found["train"]} < {need.name for need in found["dev"]}
    assert not any(need.name == "setflow" for parts in found.values() for need in parts)


def test_an_installation_needs_what_its_metadata_say(installed):
    found = needs()
    assert [need.requirement for need in found[""]] == ["numpy>=2", "torch>=2.10"]
    assert [need.requirement for need in found["train"]] == ["lightning>=2.6.6"]
    assert [need.name for need in found["other"]] == ["lightning", "no-such-package"]
    problems = [need.problem() for parts in found.values() for need in parts]
    assert [problem for problem in problems if problem] == ["no-such-package is missing"]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("torch", "2.9.1", "torch is 2.9.1, expected >=2.10"),
        ("torch", None, "torch is missing"),
        ("torch", "2.10.0a0+git", "torch is 2.10.0a0+git, expected >=2.10"),  # before it
        ("numpy", "1.26.4", "numpy is 1.26.4, expected >=2"),
        ("numpy", "10.0", None),  # no comparison of texts
    ],
)
def test_what_is_missing_or_too_old_is_told(installed, name, version, expected):
    installed[name] = version
    (need,) = (need for need in needs()[""] if need.name == name)
    assert need.problem() == expected


@pytest.mark.parametrize("version", COMPROMISED["lightning"])
def test_a_compromised_upload_is_told_whatever_is_required(installed, version):
    installed["lightning"] = version
    (need,) = needs()["train"]
    assert need.problem() == f"lightning {version} is a compromised upload, remove it at once"


def test_a_bare_tree_tells_no_requirements(installed, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match="a bare tree"):
        needs()
