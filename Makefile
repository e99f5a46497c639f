# `make demo` and `make test` need nothing but Python 3.11 or newer: each sets up .venv when it is
# missing or stale, and starts at once when it is not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
RESULTS := tests/bench/results
SPEEDS := -o python_files='bench_*.py' -o python_functions='bench_*'

# run the second argument and keep what it says, below what it ran on, in the file of results that
# the first names
kept = @mkdir -p $(RESULTS); \
	{ $(BIN)/python tests/bench/machine.py && $(2); } > $(RESULTS)/$(1) 2>&1; \
	status=$$?; cat $(RESULTS)/$(1); exit $$status

.PHONY: demo test lint bench quality test-scatter test-cuda bench-cuda clean help

help:
	@echo "make demo          train, sample, evaluate and plot on real jets (about six minutes)"
	@echo "make test          lint, type-check and test"
	@echo "make lint          ruff and mypy"
	@echo "make bench         speeds on a CPU, as ratios within one run (hours; TRIAL=1: minutes)"
	@echo "make quality       train the families of fields at equal cost and compare (hours)"
	@echo "make test-scatter  install torch-scatter (compiles for minutes) and test with it"
	@echo "make test-cuda     all tests on a CUDA device"
	@echo "make bench-cuda    speeds on a CUDA device, and shares of its peak"
	@echo "bench, quality, test-scatter, test-cuda and bench-cuda keep what they find in $(RESULTS)"

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
	$(BIN)/pytest tests/bench --ignore tests/bench/bench_cuda.py $(SPEEDS) --benchmark-only \
		--benchmark-columns=min,median,max,rounds --benchmark-sort=name \
		$(if $(TRIAL),--trial,--keep $(RESULTS))

quality: $(STAMP)
	test -f runs/quality/top50k.h5 || $(BIN)/setflow dataset make datasets/pythia-top --jets 50000 --seed 100 --out runs/quality/top50k.h5
	for seed in 1 2; do for field in deepsets epic graph transformer transformer-qknorm; do \
		OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m bench.quality train $$field --seed $$seed \
			--data runs/quality/top50k.h5 --out runs/quality || exit; done; done
	$(call kept,quality.md,PYTHONPATH=tests $(BIN)/python -m bench.quality table --out runs/quality)

# apart, so that all other targets go on without compiled extensions
test-scatter:
	@$(MAKE) --no-print-directory VENV=.venv-scatter with-scatter

# the sdist of torch-scatter imports torch while it is built
.PHONY: with-scatter
with-scatter: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation torch-scatter
	$(call kept,torch-scatter.log,$(BIN)/pytest tests/test_graph.py -rsp)

test-cuda: $(STAMP) cuda-device
	$(call kept,test-cuda.log,$(BIN)/pytest --device cuda -rs --benchmark-disable)

bench-cuda: $(STAMP) cuda-device
	$(BIN)/pytest tests/bench/bench_cuda.py $(SPEEDS) -rs --keep $(RESULTS)

.PHONY: cuda-device
cuda-device: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device, or torch %s does not know it" % torch.__version__)'

clean:
	rm -rf $(VENV) .venv-scatter build dist .pytest_cache .mypy_cache .ruff_cache
