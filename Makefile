# The two commands of the README are `make run` and `make test`; both install what they need.
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= config/config.yaml

.PHONY: run test lint plan bench gpu-check

run: .venv/.installed
	$(BIN)/snakemake --configfile $(CONFIG)
	@echo "the page: $$($(BIN)/python -c 'import yaml; print("results/" + yaml.safe_load(open("$(CONFIG)"))["experiment"])')/report/index.html"

test: .venv/.installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The grid and what it costs, without running it; TOKENS_PER_SECOND is the base's on your machine.
plan: .venv/.installed
	$(BIN)/frankenlab plans --config $(CONFIG) $(if $(TOKENS_PER_SECOND),--tokens-per-second $(TOKENS_PER_SECOND))

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# The sweep beside its peers; PARTS="sweep growth" runs some of it. The peers are an extra of their
# own, so that nobody else installs them.
bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks.speed $(if $(PARTS),--parts $(PARTS)) $(BENCH)

# On a machine with a GPU, with or without a network, by the Python that has its torch:
# make gpu-check MODEL=<Hugging Face directory> [WHEELS=<folder>] [DATA=<texts>] [OUT=<report>]
GPU_PYTHON ?= python3
OUT ?= benchmarks/gpu-check.md

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py --out $(OUT) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(GGUF),--gguf $(GGUF)) $(if $(PIECES),--pieces $(PIECES)) \
	  $(if $(WHEELS),--wheels $(WHEELS)) $(if $(DATA),--texts $(DATA)) $(if $(STEPS),--steps $(STEPS))

# torch first: asked for by another package, pip may take a build of several gigabytes.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$$(sed -n 's/^ *"\(torch==[^"]*\)",*$$/\1/p' pyproject.toml)"
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/.installed-bench: .venv/.installed
	$(BIN)/pip install --quiet --editable '.[dev,bench]'
	touch $@
