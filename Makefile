# `make demo` shows it; `make run` serves on port 8000; `make test` runs all tests. They need only Python 3.11 or later, git and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The wheel, with compiled modules, and its content. Compiled modules contain constants of others beside them, so all of these
# are reasons to compile. Templates and other extensions are only copied.
WHEEL := build/wheel
BUILT := build/installed
COMPILED_FROM := hatch_build.py pyproject.toml $(shell find tracker extensions/cluster -name '*.py')
COPIED := $(shell find tracker extensions -type f -not -path '*__pycache__*')
WITH_BUILT := PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/$(BUILT)'

# ARGS='-n 0' runs the tests one after the other, as a debugger needs it.
# The files are distributed in the order of tests/conftest.py: by default, those with few tests, however long, come last.
# A process that has crashed, or was killed at a test's time limit, ends the run: with another one in its place, pytest-xdist may
# wait for ever.
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -n

# The number of pytest's processes. Tests with other processes wait for half of their time: two would leave two cores idle.
ALL := 4
UNIT := 2

# Without bytecode, each of the thousand processes that tests start would compile all modules again.
test test-fast coverage: export PYTHONDONTWRITEBYTECODE =

# The unit tests with the plain sources: asyncio's debug mode reports coroutines that were never awaited and calls from
# the wrong thread. Of slow callbacks it only writes a log line.
# Those of the DHT, no part of which is compiled, run only afterwards: debug mode doubles the time of their simulations.
PLAIN_UNIT := PYTHONASYNCIODEBUG=1 $(PYTEST) $(UNIT) tests/unit --ignore=tests/unit/dht --cov=tracker --cov-report=

# The least coverage of each package (statements and branches, in percent): of the unit tests alone, which `make test`
# measures, and together with the integration tests, which `make coverage` measures.
UNIT_FLOORS := tracker/core=98 tracker/protocol=99 tracker/net=50
FLOORS := tracker/core=98 tracker/protocol=99 tracker/net=90
CHECK_FLOORS = for floor in $(1); do \
	echo "coverage of $${floor%=*}, at least $${floor\#*=} %:"; \
	$(BIN)/coverage report --include="$${floor%=*}/*" --fail-under=$${floor\#*=} || exit; done

.DEFAULT_GOAL := help
.PHONY: help demo run test test-fast coverage lint prepare docs dashboards bench soak fuzz fuzz-cost simulate simulate-dht clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## show three linked trackers; ARGS='--port 9000' chooses the ports
	$(BIN)/peerservers demo $(ARGS)

run: $(BUILT) $(VENV)/.installed-wheel ## serve on port 8000; ARGS='--port 9000' adds arguments
	$(WITH_BUILT) $(BIN)/peerservers serve $(ARGS)

test: $(VENV)/.installed-test ## run all tests; ARGS='-n 0 tests/unit/core' runs some
	PYTHON=$(PYTHON) tests/prepare --check
	$(MAKE) --jobs=2 $(BUILT) lint
	$(if $(ARGS),,$(PLAIN_UNIT) && $(call CHECK_FLOORS,$(UNIT_FLOORS)))
	$(WITH_BUILT) $(PYTEST) $(ALL) $(ARGS)

test-fast: $(VENV)/.installed-test $(BUILT) ## run all tests but those with real clients
	$(WITH_BUILT) $(PYTEST) $(ALL) tests/unit tests/integration tests/simulation $(ARGS)

coverage: $(VENV)/.installed-test ## measure coverage with the plain sources; build/coverage has it line by line
	$(PYTEST) $(ALL) tests/unit tests/integration --cov --cov-report=html:build/coverage --cov-report=term $(ARGS)
	@$(call CHECK_FLOORS,$(FLOORS))

lint: $(VENV)/.installed-test ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

prepare: ## install the Debian and npm packages that tests and benchmarks need
	PYTHON=$(PYTHON) tests/prepare

docs: $(VENV)/.installed-test ## generate the references and tables in docs/ from the code
	$(BIN)/python docs/generate.py

dashboards: $(VENV)/.installed-test ## generate the Grafana dashboards
	$(BIN)/python -m grafana.generate

bench: $(VENV)/.installed-bench ## measure next to other trackers; ARGS=--help lists the workloads
	PYTHON=$(PYTHON) tests/prepare --check
	$(MAKE) $(BUILT)
	$(WITH_BUILT) $(BIN)/python -m benchmarks --json build/benchmarks.json --plot build/benchmarks.svg $(ARGS)

soak: $(VENV)/.installed-bench $(BUILT) ## let clients come and go for an hour, and fail if memory grows; ARGS='--minutes 10 tls' shortens it
	$(WITH_BUILT) $(BIN)/python -m benchmarks.soak --json build/soak.json $(ARGS)

fuzz-cost: $(VENV)/.installed-bench $(BUILT) ## search for input that costs much CPU time for its size; ARGS=--help lists the options
	$(WITH_BUILT) $(BIN)/python -m benchmarks.fuzz_cost $(ARGS)

simulate: $(VENV)/.installed-bench ## simulate many trackers in virtual time; ARGS=--help lists the scenarios
	mkdir -p build
	$(BIN)/python -m tests.simulation --json build/simulation.json --plot build/simulation.svg $(ARGS)

simulate-dht: $(VENV)/.installed-test ## simulate the DHT with two million nodes, in virtual time; ARGS=--help lists the scenarios
	mkdir -p build
	$(BIN)/python -m tests.simulation.dht --json build/simulation-dht.json $(ARGS)

fuzz: $(VENV)/.installed-test ## search for inputs that break the code; ARGS='--target frames --minutes 10' chooses
	$(BIN)/python -m tests.fuzz $(ARGS)

$(WHEEL): $(COMPILED_FROM) $(VENV)/.installed
	@echo '* Compiling the modules on the path of every message, for about a minute. Without a C compiler they stay plain.'
	rm -rf $@ $(BUILT)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $@ .
	touch $@

$(BUILT): $(WHEEL) $(COPIED)
	[ -e $@ ] || $(BIN)/pip install --quiet --no-deps --target $@ $(WHEEL)/*.whl
	@# Files that are gone must not stay.
	find $@/tracker $@/extensions -type f -not -name '*.so' -delete
	tar --create --exclude=__pycache__ tracker extensions | tar --extract --directory $@
	PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/$@' $(BIN)/peerservers --version
	touch $@

# A script for the wrong Python would fail with a riddle.
CHECK_PYTHON := import sys; \
	sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed; name one in PYTHON=python3.12"); \
	sys.version_info < (3, 14) or print("* libtorrent has no wheel for this Python: the tracker will have no DHT")

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@echo '* Installing the dependencies in $(VENV), for about half a minute'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

# The environment then has the compiled tracker, too, unless it is one for tests, which use the sources.
$(VENV)/.installed-wheel: $(WHEEL)
	[ -e $(VENV)/.installed-test ] || $(BIN)/pip install --quiet --no-deps --force-reinstall $(WHEEL)/*.whl
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-test
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

clean: ## remove the virtual environment and all built files
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache \
		.pytest_cache .ruff_cache .coverage tests/web/node_modules
