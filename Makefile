# `make demo` and `make test` need nothing but Python 3.11 or newer: each sets up .venv when it is
# missing or stale, and starts at once when it is not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
RESULTS := tests/bench/results
# the versions to install: these, those of tests/oldest.txt, or the newest with /dev/null
CONSTRAINTS ?= constraints.txt
# what judges most: the laws of the mask with their saboteurs, the oracle, kept values, the structure
JUDGES := tests/laws/test_laws.py tests/fields/test_gaussian.py tests/test_kept.py \
	tests/test_architecture.py
# as many processes as cores, each with one thread: tests are many small things
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal \
	--benchmark-disable
SPEEDS := -o python_files='bench_*.py' -o python_functions='bench_*'

# run the second argument and keep what it says, below what it ran on, in the file of results that
# the first names
kept = @mkdir -p $(RESULTS); \
	{ $(BIN)/python tests/bench/machine.py && $(2); } > $(RESULTS)/$(1) 2>&1; \
	status=$$?; cat $(RESULTS)/$(1); exit $$status

.PHONY: chaos fuzz demo check test test-all lint docs notebooks linkcheck bench bench-peers quality \
	ablations symmetry zoo-data zoo-eval test-scatter test-cuda clean help

help:
	@echo "make demo          train, sample, evaluate and plot on real jets (about ten minutes)"
	@echo "make check         lint, type-check and test what judges most: laws of the mask with their"
	@echo "                   broken twins, the oracle, kept values, the structure (90 s on two cores)"
	@echo "make test          lint, type-check and test (nine minutes on two cores)"
	@echo "make test-all      the same with all combinations, which make test thins out"
	@echo "make lint          ruff and mypy"
	@echo "make chaos         kill, starve and disturb sampling, scoring and training, and compare (an hour;"
	@echo "                   KILLS=30 OTHERS=10 JOBS=sample,folder,score,fit)"
	@echo "make fuzz          damage files of events in every way and read them by every entrance"
	@echo "                   (FILES=600 SEED=0; ten minutes)"
	@echo "make docs          these and more pages as a site, in build/docs/html (half a minute)"
	@echo "make notebooks     run the notebooks in full and keep their outputs (ten minutes; NAMES=\"...\": some)"
	@echo "make linkcheck     whether the links of the site to elsewhere are alive"
	@echo "make bench         speeds on a CPU, as ratios within one run (hours; TRIAL=1: minutes)"
	@echo "make bench-peers   speeds beside other packages and plain loops (half an hour of one core;"
	@echo "                   TRIAL=1: three minutes), in environments of their own"
	@echo "make quality       train the families of fields at equal cost and compare (hours)"
	@echo "make zoo-data      simulate 30,000 held-out jets of each recipe of datasets/ into $(ZOO)"
	@echo "make zoo-eval      sample as many by each shipped model, compare them, and write what was"
	@echo "                   measured into its card (hours; FAST=1: without classifier on particles; STEPS=12)"
	@echo "make ablations     what makes a model better at equal CPU time, one option a row, beside networks"
	@echo "                   of other authors; goes on where it was cut (SECONDS=1200: half a day of one"
	@echo "                   core; ROWS=\"base event\" SEEDS=\"1 2\": some; TRIAL=1: two minutes)"
	@echo "make symmetry      a field of relative angles beside one that is shown turned events (ten minutes;"
	@echo "                   TRAINING=90: CPU seconds of each of three)"
	@echo "make test-scatter  install torch-scatter (compiles for minutes) and test with it"
	@echo "make test-cuda     all tests on a CUDA device"
	@echo "bench, bench-peers, quality, ablations, symmetry, test-scatter and test-cuda keep what they"
	@echo "find in"
	@echo "$(RESULTS)"
	@echo
	@echo "For minutes on a GPU: everything in stages, each leaving what it found when it ends."
	@echo "make campaign-data    150,000 top jets, packed for a training there (about ten minutes)"
	@echo "make campaign-wheels  what a machine with PyTorch may lack, as wheels for Python 3.12"
	@echo "make campaign OUT=DIR MINUTES=9 [STAGES=smoke,tests,training,speeds] [DEVICE=cpu]"
	@echo "make campaign-land IN=DIR   keep its tables, and its model if it is the better one"

$(STAMP): pyproject.toml $(filter-out /dev/null,$(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit("setflow needs Python 3.11 or newer, got %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/setflow demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) $(JUDGES)

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) --all

KILLS ?= 30
OTHERS ?= 10
JOBS ?= sample,folder,score,fit

chaos: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py --kills $(KILLS) --others $(OTHERS) \
		--jobs $(JOBS)

FILES ?= 600
SEED ?= 0

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/fuzz.py --files $(FILES) --seed $(SEED)

# warnings are errors: a name that is not there, a link into the void, a page in no table
SITE = OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -n -q -d build/docs/doctrees

docs: $(STAMP)
	$(SITE) -b html docs build/docs/html

notebooks: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m notebooks $(NAMES)

linkcheck: $(STAMP)
	$(SITE) -b linkcheck docs build/docs/linkcheck

bench: $(STAMP)
	$(BIN)/pytest tests/bench $(SPEEDS) --benchmark-only \
		--benchmark-columns=min,median,max,rounds --benchmark-sort=name \
		$(if $(TRIAL),--trial,--keep $(RESULTS))

# apart, so that no other target meets what the peers bring; energyflow apart from them once more
bench-peers:
	@$(MAKE) --no-print-directory VENV=.venv-peers with-peers

ENERGYFLOW := .venv-energyflow

$(ENERGYFLOW)/.stamp: tests/bench/energyflow.txt
	test -x $(ENERGYFLOW)/bin/python || $(PYTHON) -m venv $(ENERGYFLOW)
	$(ENERGYFLOW)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

.PHONY: with-peers
with-peers: $(STAMP) $(ENERGYFLOW)/.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement tests/bench/peers.txt
	OMP_NUM_THREADS=1 PYTHONPATH=tests ENERGYFLOW_PYTHON=$(ENERGYFLOW)/bin/python \
		$(BIN)/python -m bench.peers $(if $(TRIAL),--trial,--out $(RESULTS)/peers.md)

# TABLE=quality-heads FAMILIES='transformer transformer-heads8' compares numbers of heads
TABLE ?= quality
FAMILIES ?= deepsets epic graph transformer transformer-qknorm
quality: $(STAMP) runs/quality/top50k.h5
	mkdir -p runs/$(TABLE)
	for seed in 1 2; do for field in $(FAMILIES); do \
		OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m bench.quality train $$field --seed $$seed \
			--data runs/quality/top50k.h5 --out runs/$(TABLE) || exit; done; done
	$(call kept,$(TABLE).md,PYTHONPATH=tests $(BIN)/python -m bench.quality table --out runs/$(TABLE))

# Jets that no model has seen, outside of the repository. What is there is kept, so that a run that was
# cut off goes on; the seed is none of those of shipped files and of trainings.
ZOO ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/setflow/zoo
ZOO_RECIPES ?= $(patsubst datasets/%/recipe.yaml,%,$(wildcard datasets/*/recipe.yaml))

zoo-data: $(ZOO_RECIPES:%=$(ZOO)/%.h5)

$(ZOO)/%.h5: | $(STAMP)
	mkdir -p $(@D)
	$(BIN)/setflow dataset make datasets/$* --events 30000 --seed 1000 \
		--jobs $$(nproc) --out $@

zoo-eval: zoo-data
	PYTHONPATH=tests $(BIN)/python -m bench.zoo --data $(ZOO) \
		$(if $(FAST),--fast) $(if $(STEPS),--steps $(STEPS)) $(if $(MODELS),--models $(MODELS))

runs/quality/top50k.h5: | $(STAMP)
	mkdir -p $(@D)
	$(BIN)/setflow dataset make datasets/pythia-top --events 50000 --seed 100 --out $@

# a row is a file of runs/ablations, and what is missing is trained: to be cut and called again
SECONDS ?= 1200
SEEDS ?= 1 2
ABLATIONS = OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m bench.ablations
ablations: $(STAMP) $(if $(TRIAL),,runs/quality/top50k.h5)
	$(ABLATIONS) $(if $(TRIAL),trial,run --data runs/quality/top50k.h5 --out runs/ablations \
		--seconds $(SECONDS) --seeds $(SEEDS)) $(if $(ROWS),--rows $(ROWS))
	$(if $(TRIAL),,$(call kept,ablations.md,$(ABLATIONS) table --out runs/ablations))

TRAINING ?= 90
symmetry: $(STAMP)
	$(call kept,symmetry.md,OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m bench.symmetry \
		--seconds $(TRAINING))

# apart, so that all other targets go on without compiled extensions
test-scatter:
	@$(MAKE) --no-print-directory VENV=.venv-scatter with-scatter

# the sdist of torch-scatter imports torch while it is built
.PHONY: with-scatter
with-scatter: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel
	$(BIN)/python -m pip install --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--no-build-isolation torch-scatter
	$(call kept,torch-scatter.log,$(BIN)/pytest tests/fields/test_graph.py -rsp)

test-cuda: $(STAMP) cuda-device
	$(call kept,test-cuda.log,$(BIN)/pytest --device cuda --all -rs --benchmark-disable)

.PHONY: cuda-device
cuda-device: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device, or torch %s does not know it" % torch.__version__)'

# The campaign runs where nothing can be installed: with the Python that is there, setflow from the
# source tree, and what is missing from wheels that were carried in $(CAMPAIGN).
CAMPAIGN := runs/campaign
MINUTES ?= 9
DEVICE ?= cuda
THERE = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: campaign campaign-data campaign-wheels campaign-land

campaign:
	@test -n "$(OUT)" || { echo "make campaign needs OUT=DIR, a folder that does not exist yet"; exit 2; }
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && \
	if ls $(CAMPAIGN)/wheels/*.whl > /dev/null 2>&1 && ! test -x $(BIN)/python; then \
		$(THERE) -m pip install -q --no-index --no-deps --no-compile --disable-pip-version-check \
			--target "$$site" $(CAMPAIGN)/wheels/*.whl || exit; fi && \
	PYTHONPATH=.:tests:$$site $(THERE) -m bench.campaign --out "$(OUT)" --minutes $(MINUTES) \
		--device $(DEVICE) $(if $(STAGES),--stages $(STAGES)) $(if $(DATA),--data "$(DATA)")

campaign-data: $(CAMPAIGN)/top30.h5

$(CAMPAIGN)/top30.h5: | $(STAMP)
	mkdir -p runs/data $(@D)
	test -f runs/data/top150k.h5 || $(BIN)/setflow dataset make datasets/pythia-top \
		--events 150000 --seed 100 --jobs $$(nproc) --out runs/data/top150k.h5
	PYTHONPATH=tests $(BIN)/python -m bench.campaign.jets runs/data/top150k.h5 $@

campaign-wheels: $(STAMP)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--dest $(CAMPAIGN)/wheels --requirement tests/bench/campaign-wheels.txt

campaign-land: $(STAMP)
	@test -n "$(IN)" || { echo "make campaign-land needs IN=DIR, the folder of a campaign"; exit 2; }
	PYTHONPATH=tests $(BIN)/python -m bench.campaign.land "$(IN)"

clean:
	rm -rf $(VENV) .venv-oldest .venv-scatter .venv-peers .venv-energyflow build dist .pytest_cache .mypy_cache .ruff_cache
