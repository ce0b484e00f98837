# Every command of this repository. `make help` lists them.
# A fresh Debian machine needs python3 (3.11 or newer), git and make; the rest is set up by hack/setup.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup dev check test e2e generate lock bench clean

# More flags for the command, such as: make dev ARGS="--data /tmp/data --port 9000"
ARGS ?=
BIN := .venv/bin

help: ## Show this list
	@echo 'MOM: topics and queues over REST, gRPC and Python. Commands:'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'ARGS="..." hands flags on:  make dev ARGS="--data /tmp/mom --port 9000"'
	@echo '                            make test ARGS="tests/unit -k partitioner"'

setup: .venv/.setup ## Make .venv with the locked dependencies (the other commands do it by themselves)

.venv/.setup: requirements.lock pyproject.toml hack/setup
	@hack/setup

dev: .venv/.setup ## Run all of MOM in one process over ./mom-data; Ctrl-C stops it (ARGS: see mom dev --help)
	@exec $(BIN)/mom dev $(ARGS)

check: .venv/.setup ## Check style, types, layers, tidiness and that generated files are fresh
	@hack/check

test: .venv/.setup ## Run the unit, conformance and integration tests (ARGS: pytest's flags)
	@hack/install-redis
	@$(BIN)/pytest $(ARGS)

e2e: .venv/.setup ## Run tests/e2e on a real Kubernetes: KUBECONFIG's, else kind, else one made here (ARGS: see hack/e2e)
	@hack/e2e $(ARGS)

generate: .venv/.setup ## Make the generated files again (gRPC code from proto/)
	@hack/generate

lock: .venv/.setup ## Resolve the dependencies of pyproject.toml into requirements.lock
	@hack/lock

bench: .venv/.setup ## Measure speed and memory over SQLite and Redis; prints a table, writes bench/results/
	@hack/install-redis
	@$(BIN)/python bench/run.py $(ARGS)

clean: ## Remove .venv and the caches; mom-data stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
