# Every target makes what it needs in .venv; nothing else is to be installed by hand but Python, and Node for `test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Twice quiet: errors are printed, warnings about mirrors and caches are not.
PIP := $(RUN) -m pip --disable-pip-version-check install -qq
# Passed on to the program: make demo ARGS="--csv survey.csv --id site,plot"
ARGS ?=

# A stamp says that .venv holds what a target needs. The demo does not wait for the linters to be installed.
BASE := $(VENV)/.base
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev
LAB := $(VENV)/.lab
# The TypeScript package that the interop tests run, once its exact pins are in the clone.
INTEROP := $(if $(wildcard interop/package-lock.json),interop/node_modules/.stamp)

.PHONY: help demo test lint bench lab proof node

help:
	@echo 'make demo   collect a field survey offline, kill it in the middle, deliver it whole  (ARGS="--csv FILE --id COLUMN")'
	@echo 'make test   lint, types, import contracts and the tests'
	@echo 'make lint   the same without the tests'
	@echo 'make bench  what each operation costs, at 100 and at 100,000 entries'
	@echo 'make proof  the long proofs: kills, schedules, processes; each prints how many faults fired'
	@echo 'make lab    the notebooks, in JupyterLab on this machine'

demo: $(DEMO)
	@$(RUN) -m starfish_outbox.demo $(ARGS)

test: node lint $(INTEROP)
	$(RUN) -m pytest $(ARGS)

lint: $(DEV)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

bench: $(DEV)
	@$(RUN) -m tests.bench $(ARGS)

proof: node $(DEV) $(INTEROP)
	$(RUN) -m pytest -m proof --verbose --capture=no --timeout=3600 $(ARGS)

lab: $(LAB)
	$(VENV)/bin/jupyter lab --ip=127.0.0.1 $(ARGS) notebooks

node:
	@node --version >/dev/null 2>&1 || { echo 'Node 20 or newer is needed: the tests run the TypeScript package beside ours.' >&2; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' \
	  || { echo "Node 20 or newer is needed; this is $$(node --version)." >&2; exit 1; }

$(BASE): pyproject.toml
	@command -v $(PYTHON) >/dev/null \
	  || { echo 'Python 3.11 or newer is needed, and $(PYTHON) is not there; try make PYTHON=/path/to/python3.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.11." >&2; exit 1; }
	@echo 'Making $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1'  # the first that installs dependency groups
	@touch $@

$(DEMO): $(BASE)
	@echo 'Installing what the demo needs ...'
	@$(PIP) --editable '.[demo]'
	@touch $@

$(DEV): $(BASE)
	@echo 'Installing what the tests need ...'
	@$(PIP) --editable '.[cli,demo,http,schema]' --group dev
	@touch $@

$(LAB): $(BASE)
	@echo 'Installing JupyterLab ...'
	@$(PIP) --editable '.[cli,demo,notebook]' --group lab
	@touch $@

interop/node_modules/.stamp: interop/package-lock.json
	@echo 'Installing the TypeScript package ...'
	@cd interop && npm ci --silent --no-audit --no-fund
	@touch $@
