"""Model folders from a stranger: each is refused in one clean error, quickly, or is a model."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import setflow
from each import each
from setflow import SetBatch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2.0
MANIFEST, CONFIG, WEIGHTS = "manifest.json", "config.yaml", "weights.safetensors"


def flow(**parts):
    torch.manual_seed(0)
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1)
    made = setflow.SetFlow(field, cardinality=setflow.EmpiricalCardinality(6), **parts)
    mask = torch.arange(6) < torch.arange(1, 7)[:, None].repeat(8, 1)
    return made.fit_statistics(SetBatch(torch.rand(48, 6, 3) + 0.1, mask))


@pytest.fixture
def folder(tmp_path):
    return flow().save(tmp_path / "model")


def keep_hashes(folder):
    """Write the hashes of what lies there, as a stranger would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in (CONFIG, WEIGHTS):
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change_config(folder, change):
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config["model"]["flow"]["init_args"])
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    keep_hashes(folder)


def change_weights(folder, **changes):
    weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    weights = {**weights, **{name.replace("__", "."): value for name, value in changes.items()}}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights))
    keep_hashes(folder)


def refused(folder):
    """Load a folder that must be refused; return what is said, which is short, as is the time."""
    begin = time.process_time()
    with pytest.raises((ValueError, OSError)) as error:
        setflow.SetFlow.load(folder)
    assert time.process_time() - begin < SECONDS
    told = str(error.value)
    assert len(told) < 1500
    assert "\n" not in told
    return told


# --- weights and statistics ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    change_weights(folder, field__out__bias=torch.tensor([0.0, value, 0.0]))
    assert "field.out.bias holds values that are not finite" in refused(folder)


@each(
    ("name", "values", "expected"),
    [
        ("cardinality__probabilities", [0.0, 0.5, 0.6, 0, 0, 0, 0], "probabilities sum to 1.1"),
        ("cardinality__probabilities", [0.0, 1.5, -0.5, 0, 0, 0, 0], "with a minimum of -0.5"),
        ("cardinality__probabilities", [math.nan] * 7, "probabilities sum to nan"),
        ("scaler__std", [1.0, 0.0, 1.0], "scaler.std is [1.0, 0.0, 1.0], expected positive"),
        ("scaler__std", [1.0, -1.0, 1.0], "expected positive and finite"),
        ("scaler__std", [1.0, math.inf, 1.0], "expected positive and finite"),
        ("scaler__mean", [1.0, math.nan, 1.0], "scaler.mean holds values that are not finite"),
        ("scaler__lowest", [math.nan] * 3, "scaler.lowest is"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path, name, values, expected):
    folder = tmp_path / str(abs(hash((name, str(values)))))
    flow().save(folder)
    change_weights(folder, **{name: torch.tensor(values, dtype=torch.float64)})
    assert expected in refused(folder)


@each("value", [torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)])
def test_weights_that_are_no_numbers_on_a_line_are_refused(tmp_path, value):
    folder = flow().save(tmp_path / str(value.dtype))
    change_weights(folder, field__out__bias=value)
    assert "its header is wrong" in refused(folder)


def test_a_model_that_has_diverged_is_not_saved_and_neither_samples_nor_scores(tmp_path):
    diverged = flow()
    batch = diverged.sample(4, seed=1, solver=setflow.Euler(1))
    with torch.no_grad():
        diverged.field.out.weight[0, 0] = math.nan
    for use in (
        lambda: diverged.save(tmp_path / "model"),
        lambda: diverged.sample(4, seed=1, solver=setflow.Euler(1)),
        lambda: diverged.log_prob(batch, solver=setflow.Euler(1)),
        lambda: diverged.log_prob_terms(batch, solver=setflow.Euler(1)),
    ):
        with pytest.raises(ValueError, match=r"field\.out\.weight of the model are not finite"):
            use()
    assert not (tmp_path / "model").exists()


def test_weights_of_lower_precision_are_read(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        saved = flow().to(dtype).save(tmp_path / str(dtype))
        assert setflow.SetFlow.load(saved).scaler.mean.dtype == dtype


# --- sizes ---


@each(
    ("place", "value"),
    [
        (("field", "layers"), 1_000_000),
        (("field", "layers"), 3000),
        (("field", "hidden"), 10**12),
        (("field", "hidden"), 4096),
        (("field", "heads"), 10**9),
        (("field", "dim"), 10**9),
        (("field", "expansion"), 10**6),
        (("cardinality", "max_objects"), 10**12),
        (("cardinality", "max_objects"), 4000),
        (("scaler", "dim"), 10**8),
        (("field", "hidden"), int("9" * 4000)),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_refused_before_it_is_allocated(
    tmp_path, place, value
):
    folder = flow().save(tmp_path / f"{place[1]}{str(value)[:20]}")
    part, name = place
    change_config(folder, lambda f: f[part]["init_args"].update({name: value}))
    tracemalloc.start()
    refused(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


# --- what the files say ---


def _deep(levels):
    return "model: " + "[" * levels + "]" * levels


@each(
    ("text", "expected"),
    [
        ("a: &a [x]\nmodel: *a", "has the alias *a"),
        ("a: &a [1,1]\nb: &b [*a,*a]\nmodel: {flow: *b}", "has the alias"),
        (_deep(100), "nested deeper than 40 levels"),
        (_deep(100_000), "nested deeper than 40 levels"),
        ("model: {flow: 1}\nmodel: {flow: 2}", "stands twice"),
        ("model: " + "x" * 2_000_000, "expected at most"),
        ("model: !!python/object/apply:os.system ['touch sprung']", "describes no model"),
        ("model: !!python/name:os.system", "describes no model"),
        ("model: {flow: 2020-13-45}", "describes no model"),
        ("model: {flow: " + "9" * 10_000 + "}", "describes no model"),
        ("? [a]\n: b", "describes no model"),
        ("model", "describes no model"),
        ("", "describes no model"),
        ("\x00", "describes no model"),
        ("model: {flow: {class_path: os.system}}", "expected class_path: setflow.SetFlow"),
        ("model: {flow: {class_path: " + "y" * 10**5 + "}}", "expected class_path"),
        ("model: {flow: [1, 2]}", "expected class_path"),
        ("model: {flow: null}", "expected class_path"),
    ],
)
def test_a_configuration_that_describes_no_model(tmp_path, text, expected):
    folder = flow().save(tmp_path / hashlib.sha256(text.encode()).hexdigest()[:8])
    (folder / CONFIG).write_text(text)
    keep_hashes(folder)
    assert expected in refused(folder)
    assert not Path("sprung").exists()


@each(
    ("change", "expected"),
    [
        (lambda m: m.update(format=2), "is of format 2, and this version of setflow reads 1"),
        (lambda m: m.update(format="x" * 10**5), "is of format 'xxx"),
        (lambda m: m.pop("format"), "is not a manifest"),
        (lambda m: m.pop("files"), "is not a manifest"),
        (lambda m: m.update(files=[]), "is not a manifest"),
        (lambda m: m["files"].update({CONFIG: 3}), "does not match its hash"),
    ],
)
def test_a_manifest_of_another_form(tmp_path, change, expected):
    folder = flow().save(tmp_path / str(id(change)))
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert expected in refused(folder)


def test_a_manifest_that_is_nested_without_end(folder):
    (folder / MANIFEST).write_text("[" * 200_000)
    assert "is not a manifest" in refused(folder)


def header(told, content=b""):
    text = json.dumps(told).encode() if isinstance(told, dict) else told
    return struct.pack("<Q", len(text)) + text + content


@each(
    ("content", "expected"),
    [
        (b"", "its header is wrong"),
        (b"\xff" * 8, "its header is wrong"),
        (struct.pack("<Q", 2**62) + b"{}", "its header is wrong"),
        (header(b"{" * 1000), "its header is wrong"),
        (header(b"[1, 2]"), "its header is wrong"),
        (header({"a": 3}), "its header is wrong"),
        (header({"a": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}}), "header is wrong"),
        (header({"a": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8]}}), "header is"),
        (
            header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 8]}}, b"0" * 8),
            "header is",
        ),
        (header({}), "than"),
        (
            header({"a": {"dtype": "F64", "shape": [1], "data_offsets": [5, 2]}}, b"0" * 8),
            "",
        ),
    ],
)
def test_a_file_of_weights_that_is_none(tmp_path, content, expected):
    folder = flow().save(tmp_path / hashlib.sha256(content).hexdigest()[:8])
    (folder / WEIGHTS).write_bytes(content)
    keep_hashes(folder)
    assert expected in refused(folder)


def test_a_hole_of_a_terabyte_is_not_read(folder):
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2**40)
    keep = json.loads((folder / MANIFEST).read_text())
    assert keep
    assert "its header is wrong" in refused(folder)


def test_files_that_are_too_large_or_none(folder):
    (folder / CONFIG).write_text("#" * 2**21)
    assert "expected at most" in refused(folder)
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    assert "it lacks config.yaml" in refused(folder)


ODD = (
    None, True, -1, 0, 2, 3.5, 1e400, -1e400, math.nan, 10**6, 10**12, -(10**12), "", "x" * 10**5,
    "9" * 5000, [], [[]], [1] * 10**4, [math.nan], {}, {"class_path": "os.system"},
    {"class_path": "setflow.TransformerField", "init_args": {"dim": 3}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "sprung"]}},
    {1: 2}, {"x": {"y": {}}}, "!!python/name:os.system", "builtins.eval", "\x1b[31m",
)  # fmt: skip


def _places(node, at=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*at, key)
            yield from _places(value, (*at, key))


def test_no_value_at_any_place_of_a_configuration_hangs_lies_or_runs_code(tmp_path, monkeypatch):
    """Every argument of every part by every odd value: a model, or a clean error."""
    monkeypatch.chdir(tmp_path)
    models = {"given": flow(scaler=setflow.data.Standardizer(3, mean=0, std=1))}
    tried = loaded = 0
    rng = random.Random(1)
    for name, model in models.items():
        folder = model.save(tmp_path / name)
        original = (folder / CONFIG).read_text()
        flow_node = yaml.safe_load(original)["model"]["flow"]
        for place in _places(flow_node):
            for value in rng.sample(ODD, 4):
                node = yaml.safe_load(original)
                inner = node["model"]["flow"]
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = value
                (folder / CONFIG).write_text(yaml.safe_dump(node))
                keep_hashes(folder)
                begin = time.process_time()
                try:
                    made = setflow.SetFlow.load(folder)
                except ValueError as error:
                    told = str(error)
                    assert len(told) < 3000, (place, told[:200])
                else:
                    loaded += 1
                    x = made.sample(3, seed=1, lengths=[1, 2, 3], solver=setflow.Euler(1)).x
                    assert x.isfinite().all(), (place, value)
                assert time.process_time() - begin < SECONDS, (place, value)
                tried += 1
    assert tried > 100
    assert loaded < tried / 4
    assert not (tmp_path / "sprung").exists()


def test_a_shipped_model_is_read_as_before():
    for folder in sorted((ROOT / "models").glob("*/weights.safetensors")):
        setflow.SetFlow.load(folder.parent)
