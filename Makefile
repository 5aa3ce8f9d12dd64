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
# A colon stands for the space in a command.
DRIVERS := $(RUN):interop/drivers/python.py node:interop/drivers/typescript.mjs $(RUN):interop/drivers/published_python.py

.PHONY: help demo test lint matrix bench lab proof node browser

help:
	@echo 'make demo   collect a field survey offline, kill it in the middle, deliver it whole  (ARGS="--csv FILE --id COLUMN")'
	@echo 'make test   lint, types, import contracts and the tests'
	@echo 'make lint   the same without the tests'
	@echo 'make matrix every conformance case on this package and both published ones, as one page: build/conformance.html'
	@echo 'make bench  what each operation costs beside every peer  (ARGS=--quick: two minutes, --full: an hour, --help: the rest)'
	@echo 'make proof  the long proofs: kills, schedules, processes; each prints how many faults fired'
	@echo 'make lab    the notebooks, in JupyterLab on this machine'

demo: $(DEMO)
	@$(RUN) -m starfish_outbox.demo $(ARGS)

test: node lint $(INTEROP) browser
	$(RUN) -m pytest $(ARGS)

lint: $(DEV)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

matrix: node $(DEV) $(INTEROP)
	@mkdir -p build
	@$(VENV)/bin/starfish-outbox conformance $(foreach one,$(DRIVERS),--driver "$(subst :, ,$(one))") \
	  --html build/conformance.html $(ARGS)

bench: node $(DEV) $(INTEROP)
	@$(RUN) -m tests.bench $(ARGS)

proof: node $(DEV) $(INTEROP) browser
	$(RUN) -m pytest -m proof --verbose --capture=no --timeout=3600 $(ARGS)

lab: $(LAB)
	$(VENV)/bin/jupyter lab --ip=127.0.0.1 $(ARGS) notebooks

node:
	@node --version >/dev/null 2>&1 || { echo 'Node 20 or newer is needed: the tests run the TypeScript package beside ours.' >&2; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' \
	  || { echo "Node 20 or newer is needed; this is $$(node --version)." >&2; exit 1; }

# Tests open pages in it. Where there is no apt, Playwright's own copy will do.
browser: $(DEV)
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  echo 'Installing a browser ...'; \
	  if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	    as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    $$as_root apt-get update -qq; \
	    $$as_root env DEBIAN_FRONTEND=noninteractive \
	      apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	  else \
	    $(RUN) -m playwright install chromium; \
	  fi

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
	@$(PIP) --editable '.[cli,demo,http,notebook,postgres,s3,schema]' --group dev
	@touch $@

$(LAB): $(BASE)
	@echo 'Installing JupyterLab ...'
	@$(PIP) --editable '.[cli,demo,notebook]' --group lab
	@touch $@

interop/node_modules/.stamp: interop/package-lock.json
	@echo 'Installing the TypeScript package ...'
	@cd interop && npm ci --silent --no-audit --no-fund
	@touch $@
