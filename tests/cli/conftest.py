from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cli.shell import CONFIG, run, write_jets


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)  # the command line runs with torch's own default
    write_jets(Path("jets.h5"))
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture
def model(folder):
    run("fit", "--config", "config.yaml")
    return folder / "runs" / "tiny" / "model"


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw nothing in evaluations: pictures are judged elsewhere, and take most of the time."""
    from setflow.report import document

    monkeypatch.setattr(document, "write_document", lambda *_: [])
