# Everything happens in .venv, which holds exactly what constraints.txt pins.
#
#   make test    run the tests          make test WORKERS=1 PYTEST_ARGS="-k masks"
#   make lint    ruff and mypy
#   make core    prove in a bare virtual environment that the core needs no extra
#   make ray     install Ray as well and run the tests that need it, which `make test` skips
#   make bench   measure the speed
#   make docs    write the tables of the documentation from the code, and build it in site/, warnings as errors
#   make demo    train the agent for a few minutes and compare it with the baselines
#   make clean   remove .venv and caches

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
PIP_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)

# One thread per process: more make small networks slower, and results depend on their number.
export OMP_NUM_THREADS := 1

.PHONY: test lint core ray bench docs demo clean

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

core:
	rm -rf .bare
	$(PYTHON) -m venv .bare
	.bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) torch
	.bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) .
	.bare/bin/python -I -W error tests/core_alone.py
	rm -rf .bare

# By themselves: Ray's servers give up where other tests keep all cores busy.
ray: .venv/installed
	$(PIP) --editable '.[all,ray]'
	$(BIN)/python -m pytest tests/agent/test_rollout_remote.py tests/examples -k "rollout_remote or ray_cluster"

bench: .venv/installed
	$(BIN)/python -m benchmarks.throughput

# The variable silences an advertisement of the theme's next version.
docs: .venv/installed
	$(BIN)/python -m docs.generator
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Built: site/index.html"

demo: .venv/installed
	$(BIN)/python -m esper_agent demo

clean:
	rm -rf .venv .bare .pytest_cache .mypy_cache .ruff_cache .hypothesis site

# A changed pin or dependency installs again. torch goes first, so that nothing else chooses its version.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[all]'
	touch $@
