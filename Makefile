SHELL := bash
# Everything runs in .venv, which the first target that needs it makes and fills.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FLOORS := tools pipeline formats

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-peers lint types format fuzz benchmark clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## Make .venv and install the package with its development tools

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "secateur needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "==> making the virtual environment .venv"; $(PYTHON) -m venv .venv; }
	@echo "==> installing secateur and its dependencies into .venv (minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@# It declares torch < 1.13, so that pip may not look at its dependencies; a test oracle and a verifier.
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps auto-LiRPA==0.3
	@touch $@

demo: $(INSTALLED) ## Train, prune, shrink, attack and verify a small CNN; write demo/report.html
	@echo "==> secateur demo: the whole way from a trained network to a report, in ./demo"
	@$(BIN)/secateur demo -o demo

test: $(INSTALLED) ## Run the tests (all but the slow ones)
	@echo "==> pytest"
	@$(BIN)/python -m pytest

test-slow: $(INSTALLED) ## Run the slow tests too
	@echo "==> pytest, the slow tests too"
	@$(BIN)/python -m pytest -m "slow or not slow"

test-peers: $(INSTALLED) ## Install Marabou and NeuralSAT in environments of their own, run the tests that need them
	@for peer in marabou neuralsat; do $(BIN)/secateur verifiers doctor $$peer || $(BIN)/secateur verifiers install $$peer || exit; done
	@$(BIN)/python -m pytest -m peers

lint: $(INSTALLED) ## Check style, format and the import rules between the floors
	@echo "==> ruff"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . || { \
	  echo "make format repairs what can be repaired" >&2; exit 1; }
	@echo "==> import rules"
	@$(BIN)/lint-imports --no-logo

types: $(INSTALLED) ## Check types strictly
	@echo "==> mypy --strict"
	@mkdir -p build/types/secateur
	@for floor in $(FLOORS); do ln -sfn ../../../$$floor build/types/secateur/$$floor; done
	@cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml $(FLOORS:%=-p secateur.%)

format: $(INSTALLED) ## Format the code and repair what ruff can
	@$(BIN)/ruff check --fix-only --quiet . ; $(BIN)/ruff format .

MINUTES ?= 10
SEED ?= 0
fuzz: $(INSTALLED) ## Fuzz the engine for MINUTES=10, from SEED=0 on; what it finds goes to fuzz/
	@$(BIN)/python tests/fuzz.py --minutes $(MINUTES) --seed $(SEED) $(if $(CASES),--cases $(CASES))

BENCHMARKS ?= $(or $(SECATEUR_DATA),../shared/data)/benchmarks
benchmark: $(INSTALLED) ## Verify VNN-COMP folders (BENCHMARKS=DIR, 20 s an instance), compare with known results
	@mkdir -p results
	@$(BIN)/python vnncomp_benchmarks/run_folder.py $(dir $(wildcard $(BENCHMARKS)/*/instances.csv)) \
	  --timeout 20 --results results/benchmark.jsonl

clean: ## Remove build products and caches (.venv stays)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
