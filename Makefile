# `make run` serves on port 8000; `make test` runs every test. Both need only Python 3.11 or later, git and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-fast lint docs bench clean

run: $(VENV)/.installed
	$(BIN)/peerservers serve $(ARGS)

test: $(VENV)/.installed-test
	tests/prepare
	$(MAKE) lint
	$(BIN)/pytest $(ARGS)

# Everything but the tests with real clients.
test-fast: $(VENV)/.installed-test
	$(BIN)/pytest tests/unit tests/integration $(ARGS)

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
	mkdir -p build
	$(BIN)/python -m benchmarks --json build/benchmarks.json --plot build/benchmarks.svg $(ARGS)

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
