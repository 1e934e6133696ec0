# What a developer types. `make help` lists it.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := app sinks schemas tests

# The newest Python that will do; `make PYTHON=/path/to/python` names another.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench crash soak clean

help:  ## Lists what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## Installs Sluice and its tools into .venv; does nothing when that is up to date.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or name it: make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing what constraints.txt names (the first time takes a minute)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## Runs the whole thing on this machine: make demo ONCE=1 checks and exits.
	@$(BIN)/sluice demo $(if $(filter-out 0,$(ONCE)),--once)

lint: install  ## Checks style, format and types.
	@$(BIN)/ruff check --quiet $(CODE) && echo "ruff check: clean"
	@$(BIN)/ruff format --check --quiet $(CODE) && echo "ruff format: clean"
	@$(BIN)/mypy

test: install lint  ## Runs every check and test, and measures coverage.
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -p tests.coverage_plugin $(TESTS)

bench: install  ## Measures throughput and latency; tables and JSON in tests/bench/results.
	@$(BIN)/python -m tests.bench $(SCENARIOS)

crash: install  ## The long fault runs: processes killed, stopped and frozen, brokers and receivers away.
	@$(BIN)/python -m tests.crash $(SCENARIOS)

soak: install  ## The engine in the simulator, seed after seed: make soak MINUTES=20.
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation.soak --minutes $(or $(MINUTES),20)

clean:  ## Takes away what make made; the jars of the embedded Kafka stay in their cache.
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info tests/bench/results
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
