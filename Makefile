# Everything that a person or CI does with Lorry. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where models and the demo's state are kept between runs.
export LORRY_CACHE ?= $(HOME)/.cache/lorry
# A local folder or a hub id; unset: the demo model, fetched once.
MODEL ?=
# pytest-xdist workers: one a core, each with one torch thread, so that they do not fight.
JOBS ?= 2
PROTOS := $(wildcard protos/lorry/v1/*.proto)
BUF := node_modules/.bin/buf

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: setup
setup: $(VENV)/.ready ## Make the virtual environment and install everything

$(VENV)/.ready: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Lorry and its dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(BUF): package.json
	@npm install --silent --no-audit --no-fund && touch $@

.PHONY: demo
demo: setup ## Show the whole pair at work on a real model (MODEL= for another one)
	@MODEL='$(MODEL)' $(BIN)/python -m demo.run

.PHONY: test
test: check ## Everything that proves the project
	OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -q

.PHONY: check
check: setup lint types layers check-protos check-migrations ## Lint, types, layers, protos, migrations

.PHONY: lint
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: setup
	$(BIN)/mypy

.PHONY: layers
layers: setup
	$(BIN)/lint-imports

.PHONY: check-migrations
check-migrations: setup ## Models and migrations agree; up, down and up again
	$(BIN)/python -m pytest -q tests/store/test_migrations.py

.PHONY: protos
protos: setup ## Regenerate the committed stubs
	$(BIN)/python -m scripts.generate_stubs clients

.PHONY: check-protos
check-protos: setup ## Lint the protos, look for breaking changes, and compare the stubs
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf-checks; \
	  else echo "SKIPPED: buf lint and breaking need Node's npm, which is not here"; fi
	$(BIN)/python -m scripts.generate_stubs --check clients

.PHONY: buf-checks
buf-checks: $(BUF)
	$(BUF) lint protos
	$(BUF) format --diff --exit-code protos
	$(BUF) breaking protos --against protos/released.binpb

.PHONY: release-protos
release-protos: $(BUF) ## Make today's contract the one that later changes may not break
	$(BUF) build protos -o protos/released.binpb

.PHONY: run-registry
run-registry: setup ## Run a registry on 127.0.0.1:7471 (SQLite and files under ./var)
	$(BIN)/lorry-registry serve

.PHONY: run-worker
run-worker: setup ## Run a worker on 127.0.0.1:7472 (MODEL= for another model)
	@model='$(MODEL)'; LORRY_WORKER_MODEL="$${model:-$$($(BIN)/python -m demo.model)}" $(BIN)/lorry-worker serve

.PHONY: train-demo
train-demo: setup ## Train the demo's adapters anew
	$(BIN)/python -m demo.train

.PHONY: bench
bench: setup ## Measure what the README claims; prints ratios (CASES=B,D for some rows)
	$(BIN)/python -m benchmarks.serving $(if $(CASES),--cases $(CASES))

.PHONY: up
up: ## Start the pair with MinIO and PostgreSQL in containers
	docker compose -f docker/compose.yaml up --build --detach

.PHONY: down
down: ## Stop the containers
	docker compose -f docker/compose.yaml down

.PHONY: clean
clean: ## Remove what was built here (not the model cache)
	rm -rf $(VENV) node_modules var build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
