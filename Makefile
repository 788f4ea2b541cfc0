# Everything runs in .venv, made from constraints.txt. PYTHON names the Python to make it with.

PYTHON ?= python3
ARGS ?=
VENV = .venv
PEERS = .venv-peers
EXPERIMENTS = .venv-experiments
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Four at a time, each with servers of its own: with three, two cores stood idle for a sixth of the time. ARGS='-n 0' runs one after the other.
SIDE_BY_SIDE = -n 4 --dist loadfile --no-loadscope-reorder

# Else each of the hundreds of processes that tests start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo quick test test-prometheus test-docker faults crash crash-demo fuzz check audit format bench bench-peers experiments clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## make .venv with everything this project needs

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard memory/model/vectors/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,samples,dev]'
	touch $@

demo: $(STAMP)  ## watch a memory learn, recognise, be corrected and forget (ARGS=--all: all emoji)
	$(BIN)/visual-memory demo $(ARGS)

test: check  ## check, then all tests on real servers (ARGS='-k fence': some)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

quick: check  ## check, then the tests that need no server, for the loop
	$(BIN)/python -m pytest -m 'not servers' -n 3 --dist worksteal $(ARGS)

test-prometheus: $(STAMP)  ## dashboards and alerts over real workers; needs prometheus and promtool
	$(BIN)/python -m pytest tests/prometheus/check_rules.py tests/prometheus/check_live.py $(ARGS)

test-docker: $(STAMP)  ## the compose file and the integration tests on containers; needs docker
	$(BIN)/python -m tests.docker $(ARGS)

faults: $(STAMP)  ## kill workers between any two steps of their work (ARGS='-m quick': some)
	$(BIN)/python -m pytest tests/faults/check_workers.py tests/faults/check_steps.py tests/faults/check_overlap.py $(ARGS)

crash: $(STAMP)  ## random load, random kills, nothing lost (ROUNDS=50, SEED=1)
	$(BIN)/python -m tests.crash $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(STAMP)  ## broken records and images at real workers (N=25000, IMAGES=1500, SEED=1)
	$(BIN)/python -m tests.fuzz $(if $(N),--records $(N)) $(if $(IMAGES),--images $(IMAGES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

crash-demo: $(STAMP)  ## kill each process during the demo (SEED=1): it must say the same in the end
	$(BIN)/python -m pytest tests/crash/check_demo.py $(ARGS)

check: $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(STAMP)  ## are all dependencies pinned, not yanked, without known vulnerabilities?
	$(BIN)/python -m tests.audit $(ARGS)

format: $(STAMP)  ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure throughput and latency on this machine (ARGS=--quick: a tenth)
	$(BIN)/python -m benchmarks $(ARGS)

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

bench-peers: $(STAMP) $(PEERS)/.installed  ## this service beside what one would pick instead (ARGS=--quick)
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(EXPERIMENTS)/.installed: benchmarks/experiments/requirements.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(EXPERIMENTS) --no-deps $(shell grep mlxtend $<)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(EXPERIMENTS) -c constraints.txt $(shell grep matplotlib $<)
	touch $@

experiments: $(EXPERIMENTS)/.installed  ## the paper's experiments, through the service; rewrites docs/experiments.md
	PYTHONPATH=$(EXPERIMENTS) $(BIN)/python -m benchmarks.experiments --json benchmarks/results/experiments.json --docs docs $(ARGS)

clean:  ## remove what this Makefile made
	rm -rf $(VENV) $(PEERS) $(EXPERIMENTS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
