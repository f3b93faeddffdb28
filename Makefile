# Everything is installed into .venv from constraints.txt; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

.PHONY: demo test test-all test-slow lint docs setup clean
.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/uv:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "cropseg needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv

$(VENV)/.base: $(BIN)/uv pyproject.toml constraints.txt
	@echo "installing cropseg into $(VENV) (the first time this downloads PyTorch; minutes on a slow line)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(INSTALL) --editable '.[test,sweep,mlflow,export]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) --editable '.[test,sweep,mlflow,export,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	$(INSTALL) --editable '.[bench]'
	@touch $@

setup: $(VENV)/.base ## install the commands into .venv

demo: $(VENV)/.base ## the whole way, from parcels to a crop map and a report, on the simulated region
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: $(VENV)/.test ## install and run the tests (under 10 minutes on 2 cores)
	$(BIN)/pytest -n $(WORKERS) -m "not slow" --durations=15 --cov --cov-report=term

test-slow: $(VENV)/.test ## only the tests marked slow, added to the coverage of the last `make test`
	$(BIN)/pytest -n $(WORKERS) -m slow --cov --cov-append --cov-report=term --cov-fail-under=90 --durations=15

test-all: $(VENV)/.test ## every test (under 35 minutes on 2 cores)
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report=term --cov-fail-under=90

lint: $(VENV)/.lint ## formatting, linters, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## remove what the demo and the tests made, but not .venv
	rm -rf outputs/data outputs/runs outputs/logs site .pytest_cache .mypy_cache .ruff_cache .coverage*
