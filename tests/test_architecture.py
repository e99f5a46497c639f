"""The structure of the package: floors, light imports, public names, and what is in the wheel."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import setflow
from each import each
from setflow.deferred import _homes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "setflow"

# a module may import modules of strictly lower floors, and those of its own package
FLOORS = {
    "background": 0,
    "deferred": 0,
    "opened": 0,
    "spelling": 0,
    "sets": 0,
    "version": 0,
    "shipped": 1,
    "couplings": 1,
    "environment": 2,
    "requirements": 2,
    "random": 1,
    "files": 1,
    "parts": 1,
    "telling": 0,
    "fitted": 1,
    "progress": 1,
    "solvers": 1,
    "schema": 1,
    "timesteps": 1,
    "distributions": 2,
    "divergence": 2,
    "paths": 2,
    "physics": 2,
    "data": 3,
    "fields": 3,
    "losses": 3,
    "masking": 4,
    "lazy": 5,
    "process": 6,
    "model": 6,
    "diagnostics": 6,
    "diffusion": 7,
    "training": 7,
    "report": 7,
    "jobs": 8,
    "rectified": 8,
    "compat": 9,
    "cli": 9,
}


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(PACKAGE)], "setflow.")
    return sorted(["setflow", *(module.name for module in found)])


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(source: str) -> set[str]:
    """Every module of setflow that a source imports, deferred imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == "setflow"}


def broken_floors(module: str, source: str) -> list[str]:
    mine, broken = room(module), []
    if mine in ("", "__main__"):
        return []
    for name in imports_of(source):
        theirs = room(name)
        if not theirs:
            if mine not in ("cli", "compat"):
                broken.append(f"{module} imports the roof's own name {name}")
        elif theirs in FLOORS and theirs != mine and FLOORS[theirs] >= FLOORS[mine]:
            broken.append(f"{module} (floor {FLOORS[mine]}) imports {name}")
    return broken


def path_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@each("module", modules())
def test_imports_point_to_lower_floors(module):
    assert room(module) in ("", *FLOORS), f"{module} has no floor"
    source = path_of(module).read_text()
    if module != "setflow":
        assert broken_floors(module, source) == []


@each(
    ("module", "source"),
    [
        ("setflow.sets.masks", "from setflow.fields.base import VectorField"),
        ("setflow.solvers.fixed", "def f():\n    import setflow.physics.metrics"),
        ("setflow.fields.mlp", "from setflow.losses import reduce_events"),
        ("setflow.paths.base", "import setflow"),
        ("setflow.model.model", "from setflow import training"),
        ("setflow.rectified", "from setflow.compat import fastgen"),
        ("setflow.compat.nami.masking", "from setflow.cli import main"),
    ],
)
def test_an_import_that_climbs_is_caught(module, source):
    assert broken_floors(module, source)


@each("module", modules())
def test_every_public_name_resolves(module):
    if module.endswith("__main__"):
        assert "main()" in path_of(module).read_text()  # importing it would run the command
        return
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(loaded, name) is not None
    if names:
        assert sorted(names, key=_isort_key) == list(names)


def _isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_public_names_have_a_documented_home():
    for name in setflow.__all__:
        assert getattr(setflow, name).__doc__, f"{name} has no docstring"


HEAVY = (
    "lightning",
    "h5py",
    "matplotlib",
    "mplhep",
    "torch_geometric",
    "jsonargparse",
    "scipy",
    "rich",
)


def imported_by(code: str) -> set[str]:
    """The top-level names of the modules that a process of its own has imported after `code`."""
    code += "\nimport sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "code", ["import setflow, setflow.data", "import setflow; dir(setflow)", "import setflow.cli"]
)
def test_import_needs_not_even_torch(code):
    imported = imported_by(code)
    assert "setflow" in imported
    assert not imported & {"torch", "numpy", *HEAVY} - {"jsonargparse"}


@pytest.mark.parametrize(
    "code",
    [
        "from setflow import *",
        "from setflow.data import LengthBatchSampler, Standardizer, sample_moons",
        "from setflow.training import Muon; import setflow.training.optimizers",
        "import setflow.compat.fastgen, setflow.compat.nami, setflow.compat.nemo",
    ],
)
def test_import_stays_light(code):
    imported = imported_by(code)
    assert "torch" in imported
    assert not imported & set(HEAVY)


def test_import_leaves_the_compiler_out():
    code = "import setflow, sys; from setflow import *; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


DEFERRED = ("setflow", "setflow.data", "setflow.training")


@pytest.mark.parametrize("module", DEFERRED)
def test_deferred_names_are_those_of_the_package(module):
    package = importlib.import_module(module)
    heavy = {"fit"} if module == "setflow" else set()  # it needs Lightning, so `import *` leaves it
    assert set(_homes(module)) == {*package.__all__, *heavy}
    assert set(package.__all__) <= set(dir(package))
    for name, home in _homes(module).items():
        if home != module:
            assert getattr(package, name) is getattr(importlib.import_module(home), name)


def test_a_star_import_brings_all_public_names():
    names: dict[str, object] = {}
    exec("from setflow import *", names)
    assert set(setflow.__all__) <= set(names)


def test_submodules_are_there_without_an_import_of_their_own():
    code = "import setflow\nprint(setflow.data.toys.__name__, setflow.fields.SetField.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "setflow.data.toys SetField\n"


def test_a_name_that_does_not_exist_is_told_from_one_that_does():
    with pytest.raises(AttributeError, match="module 'setflow' has no attribute 'Midpiont'"):
        setflow.Midpiont  # noqa: B018
    with pytest.raises(ImportError, match="Midpiont"):
        from setflow import Midpiont  # noqa: F401
    assert not hasattr(setflow, "_private")
    with pytest.raises(AttributeError, match=r"no attribute 'TransfomerField'; did you mean Tr"):
        setflow.TransfomerField  # noqa: B018
    with pytest.raises(AttributeError, match=r"'Standardiser'; did you mean Standardizer\?"):
        setflow.data.Standardiser  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        setflow.xyzzy  # noqa: B018


def test_import_seeds_nothing():
    code = (
        "import random, numpy, torch\n"
        "def state(): return random.getstate(), numpy.random.get_state()[1].tolist(), "
        "torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "before = state()\nimport setflow\nprint(before == state())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


TRAVELS = (
    "datasets/*/recipe.yaml",
    "datasets/*/*.h5",
    "datasets/*/README.md",
    "models/*/config.yaml",
    "models/*/manifest.json",
    "models/*/weights.safetensors",
    "models/*/README.md",
)


def built(target: str, root: Path, folder: Path) -> Path:
    """Build a wheel or an sdist from a source tree, without a network; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (made,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_setflow_and_all_of_it(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    copies = {
        f"setflow/_shipped/{path.relative_to(ROOT).as_posix()}"
        for pattern in TRAVELS
        for path in ROOT.glob(pattern)
    }
    names = members(wheel)
    assert names == expected | copies
    assert "setflow/py.typed" in names
    assert "setflow/_shipped/models/top30/weights.safetensors" in names
    assert wheel.stat().st_size < 20e6  # of which data and weights are 14.7 MB


def test_a_wheel_from_the_sdist_is_the_same(wheel, tmp_path):
    sdist = built("sdist", ROOT, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    (tree,) = (tmp_path / "tree").iterdir()
    assert members(built("wheel", tree, tmp_path)) == members(wheel)


FROM_A_WHEEL = """
import setflow
from setflow.cli import main
from setflow.shipped import JETS, MODELS, RECIPES, clone, paths

assert SITE in setflow.__file__ and clone() is None
for kind in (JETS, MODELS, RECIPES):
    assert paths(kind) and all(SITE in str(path) for path in paths(kind).values())
short = ["--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
for command in (
    ["dataset", "make", "pythia-top", "--events", "5", "--out", "top.h5"],
    ["fit", "--config", "top30", *short],
    ["sample", "top30", "--events", "4", "--steps", "1", "--out", "jets.h5"],
    ["score", "top30", "pythia-top/heldout.h5", "--events", "2", "--steps", "1",
     "--estimator", "hutchinson", "--out", "scores.h5"],
    ["info", "runs/top30"],
    ["doctor"],
    ["demo", "--steps", "2", "--events", "100"],
):
    main(command)
"""


def test_what_travels_in_the_wheel_is_found_by_name_from_any_folder(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", f"SITE = {str(site)!r}\n{FROM_A_WHEEL}"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "next: setflow evaluate jets.h5 pythia-top/heldout.h5" in done.stdout
    for made in (
        "top.h5",
        "runs/top30/model",
        "jets.h5",
        "scores.h5",
        "runs/demo/report",
        "runs/demo/report-30",
    ):
        assert (here / made).exists(), made
    assert re.search(r"extra scatter (complete|.*pip install 'setflow\[scatter\]')", done.stdout)
    config = (here / "runs/top30/model/config.yaml").read_text()
    assert str(tmp_path) not in config  # names go into files, not where they were found


def test_tests_mirror_the_package():
    """Folders of tests are named like parts, files in `tests` like modules; the rest is listed."""
    whole = {
        "ablations",
        "architecture",
        "campaign",
        "clusters",
        "cuda",
        "docs",
        "each",
        "kept",
        "notebooks",
        "pages",
        "peers",
        "symmetry",
        "zoo",
    }
    parts = {path.stem for path in PACKAGE.iterdir()}
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests).parts[0] for path in tests.glob("*/test_*.py")}
    assert folders - parts == {"chaos", "laws"}
    assert {path.stem.removeprefix("test_") for path in tests.glob("test_*.py")} - parts == whole
