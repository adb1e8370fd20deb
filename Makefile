# The two commands of the README are `make run` and `make test`; each does all its own set-up. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
CC ?= cc
# What another build is made and tested of.
TREE := .dockerignore Makefile Dockerfile LICENSE README.md setup.py pyproject.toml engine ext tests bench docs deploy
# Under the sanitizers: the suite without what builds by itself or runs curl, which the run time stops, and without what limits
# or measures memory or counts processes' time: address space is taken by the terabyte there, and every allocation is larger.
SANITIZED := tests $(addprefix --ignore=tests/,frameworks model unit/test_http_sanitized.py unit/test_codec_sanitized.py \
  fault/test_descriptors.py contract/test_sagemaker_toolkit.py $(addprefix e2e/test_,archives.py console.py dockerfile.py \
  example.py memory_budget.py memory_storm.py operator.py readme.py replicas.py shared_weights.py template.py)) \
  -k "not archive and not fetched"
LOWEST := import importlib.metadata as m; print(*(line.split(";")[0].replace(">=", "==") for line in m.requires("headrace") if "extra" not in line))
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
BIN := $(VENV)/bin
FUZZ ?= 1000000
SEED ?= 1
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := setup.py pyproject.toml engine/headrace/__init__.py $(wildcard ext/*.pyx ext/*.pxi ext/*.pxd ext/*.h)

.PHONY: help run test test-all test-debug test-sanitized test-lowest test-frameworks lint types bench bench-peers bench-guard profile bench-micro soak fuzz bench-codecs fuzz-codecs digits dist docker-rehearsal parity clean
.DEFAULT_GOAL := help

help:
	@echo "make run               build, install into $(VENV), serve the bundled digits model on 127.0.0.1:8080"
	@echo "make test              the same set-up with the test extras, then the whole test suite (ARGS= goes to pytest)"
	@echo "make test-all          the test suite on every supported CPython that is here ($(PYTHONS))"
	@echo "make test-debug        the test suite on a build with assertions and bounds checks"
	@echo "make test-sanitized    the tests of extensions and of the server on a build with ASan and UBSan (gcc)"
	@echo "make test-lowest       the test suite with the oldest libraries that pyproject.toml allows (PYTHON=python3.10)"
	@echo "make test-frameworks   the serving packages of SageMaker's framework containers, unmodified (torch, transformers)"
	@echo "make lint              ruff and mypy"
	@echo "make types             mypy alone"
	@echo "make bench             the overhead scenario against the yardsticks (needs wrk)"
	@echo "make bench-peers       the servers that one would otherwise choose at the same work, into docs/benchmarks.md"
	@echo "make bench-micro       parser, codecs and rings by themselves"
	@echo "make profile           flame graphs of frontend and worker under load; system calls and copies a request (wrk, perf)"
	@echo "make bench-guard       instructions of each operation (needs valgrind); fails where they grew by more than 5 %"
	@echo "make bench-codecs      the codecs beside orjson, numpy and pandas, into bench/results/codecs.json"
	@echo "make fuzz-codecs       some ten million mutated bodies through the codecs, under ASan and UBSan (gcc)"
	@echo "make soak              half an hour of mixed traffic, kills, loads and unloads; every answer verified"
	@echo "make fuzz              a million mutated requests (FUZZ=) to the parser, compared with h11 and llhttp"
	@echo "make digits            train the bundled digits model again"
	@echo "make parity            the same requests to the real Multi Model Server and to Headrace (needs Java)"
	@echo "make dist              sdist and wheel in dist/"
	@echo "make docker-rehearsal  the steps of the Dockerfile in fresh virtual environments, without docker"
	@echo "make clean             remove what was built"

# A virtual environment whose making was interrupted, whose interpreter is gone, or that came here from another folder
# (its scripts hold absolute paths) is made again. Its stamp holds the folder's path and is written last.
$(shell test ! -e $(VENV)/.made || { test "$$(cat $(VENV)/.made)" = "$(CURDIR)" && $(BIN)/python -c 'import pip'; } 2>/dev/null || rm -f $(VENV)/.made)

# What is missing is said before anything fails half way. A C compiler and the headers are needed to build the extensions.
define REQUIREMENTS
command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install CPython 3.10 or later, or set PYTHON=" >&2; exit 1; }; \
$(PYTHON) -c '' 2>/dev/null || { echo "make: $(PYTHON) does not run: set PYTHON= to a CPython 3.10 or later" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is older than 3.10: set PYTHON= to a newer one" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.implementation.name != "cpython")' || { echo "make: $(PYTHON) is not CPython: set PYTHON= to one that is" >&2; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
command -v $(CC) >/dev/null || { echo "make: no C compiler ($(CC)): install one (Debian: apt-get install gcc libc6-dev), or set CC=" >&2; exit 1; }; \
$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "make: Python.h not found: install the headers (Debian: apt-get install python3-dev)" >&2; exit 1; }
endef

$(VENV)/.made:
	@$(REQUIREMENTS)
	$(PYTHON) -m venv --clear $(VENV)
	@echo "$(CURDIR)" > $@

$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	$(PIP) install --editable .
	@touch $@

# Installs the package too, so that `make test` on a fresh clone builds once.
$(VENV)/.installed-test: $(VENV)/.made $(SOURCES)
	$(PIP) install --editable '.[test]'
	@touch $(VENV)/.installed $@

run: $(VENV)/.installed
	@$(BIN)/python -m headrace serve digits=engine/headrace/digits

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

# Each CPython gets a virtual environment of its own. A name that does not run, such as a shim without a version behind
# it, counts as not here.
test-all:
	@ran=; for python in $(PYTHONS); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "test-all: no $$python here"; continue; }; \
		echo "test-all: $$($$python --version)"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$python || exit 1; ran="$$ran $$python"; \
	done; [ -n "$$ran" ] || { echo "test-all: none of $(PYTHONS) is here" >&2; exit 1; }; echo "test-all: passed on$$ran"

# Installed as a user has it, with the file that lets any process import `mms`. The PyTorch package carries an older
# sagemaker_inference, so it lies beside the others; MXNet's needs libraries of its time, so it has an environment of its own
# (x86-64 only: MXNet has no other wheel). psutil: later ones raise on a zombie, and the server is never found.
MXNET := mxnet==1.9.1 sagemaker-mxnet-inference==1.5.5 sagemaker-inference==1.5.11 numpy==1.23.5 scipy==1.10.1 psutil==5.9.4 model-archiver==1.0.3
test-frameworks:
	@$(MAKE) --no-print-directory VENV=.venv-frameworks .venv-frameworks/.made
	.venv-frameworks/bin/python -m pip --disable-pip-version-check --quiet install '.[test-frameworks]'
	.venv-frameworks/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --upgrade \
	  --target .venv-frameworks/pytorch-toolkit sagemaker-pytorch-inference==2.0.25
	.venv-frameworks/bin/python -m pytest tests/frameworks $(ARGS)
	@if [ "$$(uname -m)" != x86_64 ]; then echo "test-frameworks: MXNet left out: no wheel for $$(uname -m)"; else \
		$(MAKE) --no-print-directory VENV=.venv-mxnet .venv-mxnet/.made && \
		.venv-mxnet/bin/python -m pip --disable-pip-version-check --quiet install . $(MXNET) hypothesis pytest pytest-benchmark 'setuptools<81' && \
		.venv-mxnet/bin/python -m pytest tests/frameworks/test_mxnet.py $(ARGS); fi

# Other builds live in a copy of the tree: an editable install would put their extensions in the place of the release's.
# LD_PRELOAD: python itself is not sanitized, so the run time has to be there first. Python never frees all it took.
test-debug:
	$(call other-build,debug)
	$(MAKE) --no-print-directory -C build/tree-debug VENV=.venv test

test-sanitized:
	@command -v gcc >/dev/null || { echo "make: no gcc, whose sanitizers are used: install it (Debian: apt-get install gcc)" >&2; exit 1; }
	$(call other-build,sanitize)
	cd build/tree-sanitize && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  .venv/bin/python -m pytest $(SANITIZED) $(ARGS)

other-build = mkdir -p build/tree-$(1) && tar -c --exclude='*.so' --exclude=__pycache__ --exclude='*.egg-info' $(TREE) | tar -x -C build/tree-$(1) && HEADRACE_BUILD=$(1) $(MAKE) --no-print-directory -C build/tree-$(1) VENV=.venv .venv/.installed-test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(VENV)/.installed-test
	$(BIN)/mypy

bench:
	@command -v wrk >/dev/null || { echo "make: no wrk, the load generator: install it (Debian: apt-get install wrk)" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(VENV)/.installed-test
	$(BIN)/python -m bench.overhead $(ARGS)

bench-guard: $(VENV)/.installed-test
	$(BIN)/python -m bench.guard $(ARGS)

profile: $(VENV)/.installed-test
	$(PIP) install --editable '.[bench]'
	$(BIN)/python -m bench.profile $(ARGS)

bench-peers: $(VENV)/.installed-test
	@command -v wrk >/dev/null || { echo "make: no wrk, the load generator: install it (Debian: apt-get install wrk)" >&2; exit 1; }
	$(PIP) install --editable '.[bench]'
	-$(BIN)/python -m bench.peers install
	$(BIN)/python -m bench.compare $(ARGS)
	$(BIN)/python -m bench.compare_page

bench-micro: $(VENV)/.installed-test
	$(BIN)/python -m pytest bench/micro --benchmark-enable --benchmark-only $(ARGS)

# The real server, in a virtual environment of its own; it needs Java (Debian: apt-get install default-jre-headless).
parity: $(VENV)/.installed-test
	@command -v java >/dev/null || { echo "make: java not found: install a JRE (Debian: apt-get install default-jre-headless)" >&2; exit 1; }
	$(PYTHON) -m venv .venv-original
	.venv-original/bin/python -m pip install --quiet --disable-pip-version-check 'multi-model-server==1.1.11'
	$(BIN)/python -m bench.parity .venv-original/bin/multi-model-server --write docs/parity.md

bench-codecs: $(VENV)/.installed-test
	$(PIP) install --editable '.[bench]'
	$(BIN)/python -m bench.codecs $(ARGS)

fuzz-codecs: $(VENV)/.installed-test
	CODEC_FUZZ_ROUNDS=250000 $(BIN)/python -m pytest tests/unit/test_codec_sanitized.py $(ARGS)

soak: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[bench]'
	$(BIN)/python -m bench.soak $(ARGS)

# The same comparison with h11 and llhttp as in the test suite, only longer; the parser runs under the sanitizers too.
fuzz: $(VENV)/.installed-test
	FUZZ_MUTATIONS=$(FUZZ) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -q tests/property/test_http_fuzz.py tests/unit/test_http_sanitized.py

digits: $(VENV)/.installed-test
	$(PIP) install '.[train]'
	$(BIN)/python -m headrace.digits.train

docker-rehearsal: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/e2e/test_dockerfile.py $(ARGS)

# The lower bounds of the libraries that a user gets, taken from pyproject.toml; the suite must pass with those.
test-lowest:
	@$(MAKE) --no-print-directory VENV=.venv-lowest .venv-lowest/.installed-test
	.venv-lowest/bin/python -m pip --disable-pip-version-check --quiet install $$(.venv-lowest/bin/python -c '$(LOWEST)')
	.venv-lowest/bin/python -m pytest $(ARGS)

dist: $(VENV)/.installed-test
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist $(VENV) .venv-* engine/*.egg-info engine/headrace/_*.so
