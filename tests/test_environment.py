"""What a computation ran on, and the commit, which only a clone has."""

from __future__ import annotations

import platform
import shutil
import subprocess

import numpy as np
import pytest

import setflow
from setflow import environment


def test_versions_are_those_of_what_is_installed():
    found = environment.versions("numpy", "no-such-package")
    assert found == {
        "setflow": setflow.__version__,
        "Python": platform.python_version(),
        "numpy": np.__version__,
    }


def test_a_processor_has_a_name():
    assert environment.processor().strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_clone_and_says_what_differs(tmp_path, monkeypatch):
    def git(*words):
        told = ("-c", "user.name=a", "-c", "user.email=a@b")
        ran = subprocess.run(
            ["git", *told, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return ran.stdout.strip()

    monkeypatch.setattr(environment, "clone", lambda: tmp_path)
    assert environment.commit() is None  # a source tree without history
    git("init", "-q")
    assert environment.commit() is None  # and one without a commit
    (tmp_path / "a.txt").write_text("a")
    git("add", "a.txt")
    git("commit", "-q", "-m", "a")
    head = git("rev-parse", "HEAD")
    assert environment.commit() == head[:12]
    (tmp_path / "a.txt").write_text("b")
    assert environment.commit() == f"{head[:12]} with changes"
    monkeypatch.setattr(environment, "clone", lambda: None)
    assert environment.commit() is None
    monkeypatch.setattr(environment, "clone", lambda: tmp_path)
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None
