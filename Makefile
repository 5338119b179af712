# `make` lists the targets. Each one installs what it needs into .venv first: `run` what running
# needs, `test` and `lint` what developing needs.
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= config/config.yaml
PROFILE ?= profiles/local

.DEFAULT_GOAL := help
.PHONY: help run test test-fast fuzz lint lock plan speed bench clear gpu-check

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "CONFIG=FILE names another experiment; later files of CONFIG=\"A B\" change earlier ones."

# Snakemake answers a file that it cannot read with a traceback. This takes a second.
CONFIG_READ = @$(BIN)/frankenlab show base --config $(CONFIG) > /dev/null

run: .venv/.run ## installs, downloads, searches and confirms; ends with the page
	$(CONFIG_READ)
	$(BIN)/snakemake --profile $(PROFILE) --configfile $(CONFIG)
	@echo "the page: results/$$($(BIN)/python -c 'import sys; from frankenlab.config.experiment import load; print(load(*sys.argv[1:]).name)' $(CONFIG))/report/index.html"

test: .venv/.dev ## runs all tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder

# The tests that take less than a quarter of a second each: all of them in under a minute.
test-fast: .venv/.dev ## runs the fast tests, in under a minute
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  -m "not slow and not real and not gpu" --ignore tests/workflow --ignore tests/benchmarks

# Random models, tokenizers, tasks, plans, configs and damaged files: docs/fuzzing.md. SEED=7 draws
# the same cases again, PARTS=parity runs one part.
CASES ?= 2000

fuzz: .venv/.dev ## compares random cases with lm-evaluation-harness
	$(BIN)/python -m tests.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED)) \
	  $(if $(PARTS),--parts $(PARTS))

# What a grid costs, and which jobs are left to do, without running any. TOKENS_PER_SECOND is the
# base's, "4000" (of the first model) or "llama-7b=4000,llama-13b=2200"; GPUS="4" or "1,4,16" asks
# how long it takes on so many GPUs, CARDS="h100,a100,rtx-4090" how many hours of each of these cards it
# takes; PROFILE=profiles/slurm checks it against the cluster's partitions.
plan: .venv/.run ## says what an experiment costs and what is left to do, without running
	$(CONFIG_READ)
	FRANKENLAB_GPUS=$(GPUS) FRANKENLAB_CARDS=$(CARDS) FRANKENLAB_TOKENS_PER_SECOND=$(TOKENS_PER_SECOND) \
	  $(BIN)/snakemake --dry-run --quiet rules progress reason host --profile $(PROFILE) \
	  --configfile $(CONFIG)

# How fast the models read prompts here, for predictions: on a cluster on one of its GPUs, as in
# srun -p gpu --gpus=1 make speed CONFIG=config/experiments/llama.yaml
speed: .venv/.run ## measures how fast the models read here, for predictions
	$(BIN)/python -m benchmarks.model_speed --config $(CONFIG) $(if $(DEVICE),--device $(DEVICE))

# After a kill -9 of a workflow: cancels the jobs that it left in SLURM's queue, removes a stale
# lock and half-written files. What is finished stays.
clear: .venv/.run ## clears up after a kill
	$(BIN)/frankenlab clear

lint: .venv/.dev ## checks style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/snakemake --lint

# The sweep beside its peers; PARTS="sweep growth" runs some of it. The peers are an extra of their
# own, so that nobody else installs them.
bench: .venv/.bench ## measures speed beside peers
	$(BIN)/python -m benchmarks.speed $(if $(PARTS),--parts $(PARTS)) $(BENCH)

# On a machine with a GPU, with or without a network, by the Python that has its torch:
# make gpu-check MODEL=<Hugging Face directory> [WHEELS=<folder>] [DATA=<texts>] [OUT=<report>]
GPU_PYTHON ?= python3
OUT ?= benchmarks/gpu.md

gpu-check: ## runs everything on a GPU
	$(GPU_PYTHON) benchmarks/gpu_check.py --out $(OUT) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(GGUF),--gguf $(GGUF)) $(if $(PIECES),--pieces $(PIECES)) \
	  $(if $(WHEELS),--wheels $(WHEELS)) $(if $(DATA),--texts $(DATA)) $(if $(STEPS),--steps $(STEPS))

# Resolves pyproject.toml's ranges again, for all extras and Python from 3.11 on. What is installed
# stays where it can: only what must change does.
lock: .venv/.dev ## resolves the dependencies again
	$(BIN)/uv pip compile --quiet --universal --all-extras --python-version 3.11 --no-annotate \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

INSTALL := $(BIN)/pip install --quiet --constraint requirements.lock

# torch comes first: when another package asks for it, pip may take a build of several gigabytes.
.venv/.run: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

.venv/.dev: .venv/.run
	$(INSTALL) --editable '.[dev]'
	touch $@

.venv/.bench: .venv/.dev
	$(INSTALL) --editable '.[dev,bench]'
	touch $@
