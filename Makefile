# Everything needed to try, test and check Driftwood. A machine needs Python 3.11 to 3.13 and make; `make help` lists the
# targets. Nothing is installed outside this folder (.venv, deploy/kafka/libs) and the caches of pip, uv and Maven.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.8
PACKAGES := features models streams offline driftwood examples
# Test processes for the quick tests, which compute, and for the others, which mostly wait for servers and groups; each of
# these has servers of its own. 0 runs them in one process, in which a debugger works.
WORKERS ?= auto
WAITING_WORKERS ?= 3

# The first Python that will do. uv must not fetch another one behind our back.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$python; break; }; done)
export UV_PYTHON_DOWNLOADS := never
# The certificates that this machine trusts, as pip does: a company's proxy has one of its own.
export UV_SYSTEM_CERTS := true
# Once, at installation: where Python may not write bytecode by itself, every start would compile all libraries again (10 s).
export UV_COMPILE_BYTECODE := true
UV := .venv/bin/uv
RUN := .venv/bin/python -m
# Whole files: what the tests of a file share is made once.
SIDE_BY_SIDE := -n $(WAITING_WORKERS) --dist loadfile

# ---- environment ----------------------------------------------------------------------------------------------------
# Stamps: a file newer than what it was made from means that there is nothing to do.
RUNTIME := .venv/.stamp-runtime
DEVELOPMENT := .venv/.stamp-development

.venv/.stamp-uv-$(UV_VERSION):
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.11, 3.12 or 3.13 (looked for python3, python3.13, python3.12," \
		"python3.11). Install one, or say where it is: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv || { echo "make: '$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(RUN) pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# What `make demo` needs. Not exact: development tools that are already there stay.
$(RUNTIME): .venv/.stamp-uv-$(UV_VERSION) pyproject.toml uv.lock
	$(UV) sync --frozen --inexact --no-dev --extra examples
	@touch $@

$(DEVELOPMENT): .venv/.stamp-uv-$(UV_VERSION) pyproject.toml uv.lock
	$(UV) sync --frozen --all-extras --all-groups
	@touch $@ $(RUNTIME)

# ---- what one runs --------------------------------------------------------------------------------------------------
.PHONY: help demo test check format-check lint types imports quick proof doctests functional integration kafka clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(RUNTIME) ## flights of 2013: train, stream, score, summary (embedded broker and Redis)
	.venv/bin/driftwood demo

test: check functional integration ## everything that CI runs

check: format-check lint types imports quick doctests ## format, lint, types, imports, unit and property tests, doctests

format-check: $(DEVELOPMENT)
	$(RUN) ruff format --check .

lint: $(DEVELOPMENT)
	$(RUN) ruff check .

types: $(DEVELOPMENT)
	$(RUN) mypy

imports: $(DEVELOPMENT)
	.venv/bin/lint-imports --no-logo

quick: $(DEVELOPMENT) ## unit and property tests alone
	$(RUN) pytest -n $(WORKERS) tests/unit tests/property

proof: $(DEVELOPMENT) ## a long look at the batch protocol: crashes, zombies and roll-backs between any two steps
	$(RUN) pytest -s --timeout=0 --hypothesis-profile=thorough tests/property/test_batch_protocol.py

doctests: $(DEVELOPMENT) ## the examples in the packages, the README and docs/
	@# The Feast repository is a form that only stands on its own once it is written for a pipeline.
	$(RUN) pytest -n $(WORKERS) --doctest-modules --doctest-glob='*.md' --ignore=features/feast_repo $(PACKAGES) README.md $(wildcard docs)

functional: $(DEVELOPMENT) ## whole parts on the embedded broker and Redis
	$(RUN) pytest $(SIDE_BY_SIDE) tests/functional

integration: $(DEVELOPMENT) ## tests on a real Apache Kafka; skipped with a reason where there is no JDK, unless CI=true
	@# Once, before several processes need it at a time.
	@if command -v mvn > /dev/null; then deploy/kafka/fetch; fi
	@# In the order of the folder: pytest-xdist would keep the files with few and long tests for the end.
	$(RUN) pytest $(SIDE_BY_SIDE) --no-loadscope-reorder tests/integration

kafka: ## fetch the jars of a real Apache Kafka with Maven, once; deploy/kafka/start runs it
	deploy/kafka/fetch

clean: ## remove what was made here: environment, jars, caches
	rm -rf .venv deploy/kafka/libs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find $(PACKAGES) tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +
