# `make demo` and `make test` need nothing but Python 3.11 or newer: each sets up .venv when it is
# missing or stale, and starts at once when it is not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: demo test lint bench clean help

help:
	@echo "make demo   train, sample, evaluate and plot on real jets (about six minutes)"
	@echo "make test   lint, type-check and test"
	@echo "make lint   ruff and mypy"
	@echo "make bench  speeds, as ratios within one run"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("setflow needs Python 3.11 or newer, got %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/setflow demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# as many processes as cores, each with one thread: tests are many small things
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal --benchmark-disable

bench: $(STAMP)
	$(BIN)/pytest tests/bench -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-only \
		--benchmark-group-by=group --benchmark-columns=min,median,max,rounds \
		--benchmark-sort=name

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
