# The two commands of the README are `make run` and `make test`; each does all its own set-up. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WRK ?= wrk
SOURCES := setup.py pyproject.toml $(wildcard ext/*.pyx ext/*.pxi ext/*.pxd ext/*.h)
PYTHONS ?= python3.10 python3.11 python3.12 python3.13

.PHONY: run test test-all lint types bench bench-micro digits dist clean help
.DEFAULT_GOAL := help

help:
	@echo "make run        build, install into $(VENV), serve the bundled digits model on 127.0.0.1:8080"
	@echo "make test       the same set-up with the test extras, then the whole test suite"
	@echo "make test-all   the test suite on every supported CPython that is here ($(PYTHONS))"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the overhead scenario against the yardsticks (needs wrk)"
	@echo "make dist       sdist and wheel in dist/"
	@echo "make clean      remove what was built"

# What is missing is said before anything fails half way. A C compiler and the headers are needed to build the extensions.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install CPython 3.10 or later, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is older than 3.10: set PYTHON= to a newer one" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "make: no C compiler ($${CC:-cc}): install one (Debian: apt-get install build-essential)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "make: Python.h not found: install the headers (Debian: apt-get install python3-dev)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

run: $(VENV)/.installed
	@$(BIN)/headrace serve

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

# Each CPython gets a virtual environment of its own and the extensions built into a wheel of its own.
test-all:
	@ran=0; for python in $(PYTHONS); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "test-all: no $$python here"; continue; }; \
		echo "test-all: $$($$python --version)"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$python || exit 1; ran=1; \
	done; [ $$ran = 1 ] || { echo "test-all: none of $(PYTHONS) is here" >&2; exit 1; }

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(VENV)/.installed-test
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench.overhead $(ARGS)

digits: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[train]'
	$(BIN)/python -m headrace.digits.train

bench-micro: $(VENV)/.installed-test
	$(BIN)/python -m pytest bench/micro --benchmark-enable --benchmark-only $(ARGS)

dist: $(VENV)/.installed-test
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist $(VENV) .venv-* engine/*.egg-info engine/headrace/_*.so
