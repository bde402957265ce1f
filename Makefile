# `make run` serves on port 8000; `make test` runs every test. Both need only Python 3.11 or later, git and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What a wheel holds, with the compiled modules; the virtual environment has the source.
BUILT := build/installed
WITH_BUILT := PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/$(BUILT)'

# ARGS='-n 0' runs them one after the other: for a debugger.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

.PHONY: run test test-fast lint docs bench clean

run: $(BUILT)
	$(WITH_BUILT) $(BIN)/peerservers serve $(ARGS)

# Where all are run, the unit tests also with the plain source.
test: $(VENV)/.installed-test
	tests/prepare
	$(MAKE) $(BUILT) lint
	$(if $(ARGS),,$(PYTEST) tests/unit)
	$(WITH_BUILT) $(PYTEST) $(ARGS)

# Everything but the tests with real clients.
test-fast: $(VENV)/.installed-test $(BUILT)
	$(WITH_BUILT) $(PYTEST) tests/unit tests/integration $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The references that are made from the code.
docs: $(VENV)/.installed-test
	$(BIN)/python docs/generate.py

# What it costs, next to other trackers: make bench ARGS='--quick --only relay'; ARGS=--help lists the workloads.
bench: $(VENV)/.installed-bench
	tests/prepare
	$(MAKE) $(BUILT)
	$(WITH_BUILT) $(BIN)/python -m benchmarks --json build/benchmarks.json --plot build/benchmarks.svg $(ARGS)

$(BUILT): hatch_build.py pyproject.toml $(shell find tracker extensions -not -path '*__pycache__*') $(VENV)/.installed
	rm -rf $@ $@.new
	$(BIN)/pip install --quiet --no-deps --target $@.new .
	PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/$@.new' $(BIN)/peerservers --version
	mv $@.new $@
	touch $@

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-test
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache tests/web/node_modules
