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
# pytest-xdist workers: three on two cores, since tests also wait for processes, disks and deadlines; each has one
# torch thread, so that they do not fight.
JOBS ?= 3
PROTOS := $(wildcard protos/lorry/v1/*.proto)
NATIVE := $(wildcard compute_worker/engine/native/*.cpp compute_worker/engine/native/*.h)
BUF := node_modules/.bin/buf

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: setup
setup: $(VENV)/.ready $(VENV)/.native ## Make the virtual environment and install everything

$(VENV)/.ready: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Lorry and its dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# The worker's C++ kernels, some seconds; without g++ a line says so and torch computes alone.
$(VENV)/.native: scripts/build_native.py $(NATIVE) | $(VENV)/.ready
	@$(BIN)/python -m scripts.build_native
	@touch $@

$(BUF): package.json
	@npm install --silent --no-audit --no-fund && touch $@

.PHONY: demo
demo: setup ## Show the whole pair at work on a real model (MODEL= for another one)
	@MODEL='$(MODEL)' $(BIN)/python -m demo.run

.PHONY: test
test: check ## Everything that proves the project
	OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -q

# In a folder beside the environment: where torchao is found, transformers imports it at every start, which takes
# a tenth longer and writes four lines to stderr. The version is the extra's.
QUANTIZED := $(VENV)/quantized
$(QUANTIZED)/.ready: pyproject.toml | $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(QUANTIZED) \
	  "$$(sed -n 's/^quantized = .*"\(torchao[^"]*\)".*/\1/p' pyproject.toml)"
	@touch $@

.PHONY: test-quantized
test-quantized: setup $(QUANTIZED)/.ready ## The tests of bases in int8, which need torchao
	PYTHONPATH=$(QUANTIZED) OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -q \
	  $$(grep -l needs_torchao tests/*/test_*.py)

.PHONY: test-long
test-long: setup ## The tests with everything that `make test` leaves to the long forms
	LORRY_LONG=1 OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -q

# How long the registry is killed, in seconds for each kind of storage, and how often at least.
CHAOS_SECONDS ?= 300
CHAOS_KILLS ?= 100
# How many operations meet a fault of S3's.
CHAOS_S3_OPERATIONS ?= 1000

.PHONY: chaos
chaos: setup ## Kill the registry under load, 100 times and more (CHAOS_SECONDS=, CHAOS_KILLS=, CHAOS_SEED=)
	LORRY_LONG=1 CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_SEED=$(CHAOS_SEED) CHAOS_TRACED=100 \
	  CHAOS_S3_OPERATIONS=$(CHAOS_S3_OPERATIONS) OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -q -s tests/chaos

.PHONY: chaos-s3
chaos-s3: setup ## The part of it with an S3 server that misbehaves (CHAOS_S3_OPERATIONS=, CHAOS_SEED=)
	LORRY_LONG=1 CHAOS_S3_OPERATIONS=$(CHAOS_S3_OPERATIONS) CHAOS_SEED=$(CHAOS_SEED) \
	  OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m pytest -q -s tests/chaos/s3

# How many answers the worker gives to sixteen clients at once.
LOAD_OUTPUTS ?= 10000

.PHONY: load
load: setup ## Sixteen clients and mixed traffic on a small worker, each answer compared with PEFT's (LOAD_OUTPUTS=, LOAD_SEED=)
	LORRY_LONG=1 LOAD_OUTPUTS=$(LOAD_OUTPUTS) LOAD_SEED=$(LOAD_SEED) OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR \
	  $(BIN)/python -m pytest -q -s tests/load

# How many sequences of calls the registry and its model get on files, and the seed that they come from.
SEQUENCES ?= 2000
SEED ?= 1

.PHONY: stateful
stateful: setup ## Compare the registry with a plain model, call by call (SEQUENCES=, SEED=)
	LORRY_LONG=1 LORRY_SEQUENCES=$(SEQUENCES) LORRY_SEED=$(SEED) OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR \
	  $(BIN)/python -m pytest -q -s tests/stateful

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

# Of the benchmarks: some rows only; the type of our weights; the peer's.
CASES ?=
SERVING = $(BIN)/python -m benchmarks.serving $(if $(DTYPE),--dtype $(DTYPE)) $(if $(PEER_DTYPE),--peer-dtype $(PEER_DTYPE))

.PHONY: bench
bench: setup ## Measure what the README claims beside PEFT; prints ratios (CASES=B,D, DTYPE=, PEER_DTYPE=)
	$(SERVING) $(if $(CASES),--cases $(CASES))

.PHONY: bench-vllm
bench-vllm: setup .bench/vllm/.ready ## The same beside vLLM for CPUs, with LoRA and without; in its own environment
	$(SERVING) --peers vllm-bare,vllm $(if $(CASES),--cases $(CASES))

.bench/vllm/.ready: benchmarks/peers_vllm.py | $(VENV)/.ready
	$(BIN)/python -m benchmarks.peers_vllm .bench/vllm
	@touch $@

.PHONY: bench-llama
bench-llama: setup .bench/llama/.ready ## Cases A and B beside llama.cpp's server; in its own environment
	$(SERVING) --peers llama $(if $(CASES),--cases $(CASES))

.bench/llama/.ready: benchmarks/peers_llama.py | $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.peers_llama .bench/llama
	@touch $@

.PHONY: bench-sweeps
bench-sweeps: setup ## Our rate over numbers of adapters, ranks and kinds of selection (ONLY=ranks)
	$(BIN)/python -m benchmarks.sweeps $(if $(ONLY),--only $(ONLY))

.PHONY: bench-latency
bench-latency: setup ## First token and time between tokens under Poisson arrivals at 50, 80 and 95 % of capacity
	$(BIN)/python -m benchmarks.latency

.PHONY: bench-goals
bench-goals: setup ## Each goal beside what was measured last, as a table
	@$(BIN)/python -m benchmarks.goals

.PHONY: bench-plots
bench-plots: setup ## Draw docs/plots/*.svg from the results
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.plots

.PHONY: bench-startup
bench-startup: setup ## Start a worker once, and show where the time until its first token goes
	$(BIN)/python -m benchmarks.startup

.PHONY: bench-memory
bench-memory: setup ## Fill a worker part by part; prints bytes as computed beside what the process has
	$(BIN)/python -m benchmarks.memory

.PHONY: profile
profile: setup ## Show where a decode step's time goes, and compare the executors
	$(BIN)/python -m benchmarks.profile

.PHONY: conformance
conformance: setup ## Ask a running registry for all that the contract says (TARGET=host:port; LORRY_TOKEN_FILE, LORRY_CA)
	@test -n '$(TARGET)' || { echo "expected TARGET=host:port of a registry"; exit 2; }
	LORRY_LONG=1 LORRY_CONFORMANCE_TARGET='$(TARGET)' $(BIN)/python -m pytest -q tests/conformance

.PHONY: bench-combine
bench-combine: setup ## Combinations beside PEFT's add_weighted_adapter: time and memory; prints ratios
	$(BIN)/python -m benchmarks.combining

.PHONY: bench-masks
bench-masks: setup ## What answers of a form (JSON Schema, regex, grammar) cost a step at batch 32
	$(BIN)/python -m benchmarks.masks

.PHONY: bench-registry
bench-registry: setup ## Measure the registry beside raw TCP and boto3; prints ratios (CASES=download,resolve)
	$(BIN)/python -m benchmarks.registry $(if $(CASES),--cases $(CASES))

.PHONY: up
up: ## Start the pair with MinIO and PostgreSQL in containers
	docker compose -f docker/compose.yaml up --build --detach

.PHONY: down
down: ## Stop the containers
	docker compose -f docker/compose.yaml down

.PHONY: clean
clean: ## Remove what was built here (not the model cache)
	rm -rf $(VENV) .bench node_modules var build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
