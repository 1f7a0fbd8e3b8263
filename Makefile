# `make` lists what there is. Needs Python 3.11 or newer and a network for packages; everything else it installs itself.
PYTHON ?= python3
VENV := .venv
DEMO := .demo
BIN := $(VENV)/bin

.PHONY: help demo test lint format conformance bench bench-tiers bench-peers bench-gpu nano wheel clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)/.ready ## Make a clip with nano, in an environment of its own without torch
	@$(DEMO)/bin/sa3 generate --prompt "C major chord on a warm synth pad" --duration 5 --output demo.wav
	@echo "the clip is $(CURDIR)/demo.wav"

test: $(VENV)/.ready ## Everything: lint, format, types, import rules, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	PYTHONPATH=training $(BIN)/lint-imports
	$(BIN)/pytest -m "not gpu and not weights and not network and not slow"

lint: $(VENV)/.ready ## Lint, format, types and import rules alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	PYTHONPATH=training $(BIN)/lint-imports

format: $(VENV)/.ready ## Rewrite the sources in house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: $(VENV)/.ready ## Compare with the reference's numbers: make conformance DIR=... BACKEND=...
	$(BIN)/python tests/conformance.py $(or $(DIR),tests/golden) --backend $(or $(BACKEND),torch)

# Under ten minutes on two cores. The full-size model has random weights where the released ones are not on this machine.
bench: $(VENV)/.ready ## Measure this machine: the published table with its columns, in benchmarks/results/
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/sa3-bench table --models small-music --durations 5,30 --export --repeat 3 --most-seconds 30
	$(BIN)/sa3-bench table --models nano --durations 5,20 --batches 1,4 --repeat 10 --resume

bench-peers: $(VENV)/.ready ## The same with the other implementations that the package index has: a quarter of an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]' diffusers
	$(BIN)/sa3-bench table --models small-music --durations 5,30 --export --repeat 3 --most-seconds 30 --peers

bench-gpu: $(VENV)/.ready ## The same on an NVIDIA GPU: every row of the published table, on the torch engine
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]' nvidia-ml-py
	$(BIN)/sa3-bench table --models small-music,medium --durations 5,30,120,380 --backends torch --device cuda \
		--precision fp16,fp32 --repeat 10

# Export of the full-size model: about five minutes on two cores; the rounds after it: about a quarter of an hour.
bench-tiers: $(VENV)/.ready ## Every tier of every engine against plain torch, taking turns, in benchmarks/results/
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/sa3-export --model random:small-music --target onnx --precision exact,fast,compact
	$(BIN)/sa3-export --model random:small-music --target openvino
	$(BIN)/sa3-bench tiers --model random:small-music

nano: $(VENV)/.ready ## Train nano again from nothing, and put it into the package: about two hours on two cores; resumable
	PYTHONPATH=training $(BIN)/python -m sa3_training nano

wheel: $(VENV)/.ready ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## Remove the environments and what was built
	rm -rf $(VENV) $(DEMO) dist build .pytest_cache .ruff_cache

# Torch comes first and pinned: unpinned, or as somebody's dependency, pip may take a build with gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

$(DEMO)/.ready: pyproject.toml $(shell find sa3_runtime engines stable_audio_3 exporters -name '*.py' -o -name '*.json')
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --upgrade pip
	$(DEMO)/bin/pip install --quiet .
	@touch $@
