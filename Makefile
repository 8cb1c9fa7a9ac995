# Run `make help` for what there is.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHAOS_SECONDS ?= 60
CHAOS_RUNS ?= 10
CHAOS_SEED ?= 1

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# checkov pins old versions of what we use: it gets an environment of its own.
build/checkov/bin/checkov:
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov

install: $(STAMP) ## Make the virtual environment and install everything, at locked versions

demo: $(STAMP) ## Start everything, send real prompts through it, show the answers, stop
	$(BIN)/inferenceflow demo

run: $(STAMP) ## Start everything and keep it up until Ctrl-C
	$(BIN)/inferenceflow up

check: $(STAMP) ## Lint, formatting, types, layers, security rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -ll -r app config tasks workers

# Thousands of tests and processes import the same modules: compile them once.
test test-fast: export PYTHONDONTWRITEBYTECODE =

test: check build/checkov/bin/checkov ## Everything: checks, all tests, coverage
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

test-fast: $(STAMP) ## The quick tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" -q

chaos: $(STAMP) ## Random faults under load, audited (CHAOS_SECONDS, CHAOS_RUNS, CHAOS_SEED)
	$(BIN)/python -m tests.faults.chaos --seconds $(CHAOS_SECONDS) --runs $(CHAOS_RUNS) \
	    --seed $(CHAOS_SEED) --out build/chaos.jsonl

mutants: $(STAMP) ## Take each promise's mechanism away and see its test fail
	$(BIN)/python -m tests.faults.mutants --out build/mutants.jsonl

fuzz: $(STAMP) ## Ten minutes of coverage-guided fuzzing of providers' answers
	$(BIN)/python -m tests.providers.fuzz -max_total_time=600 build/fuzz-corpus

# Asks a package index with vulnerability data: needs a network.
audit: constraints.txt ## Look up published vulnerabilities of the locked dependencies
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

bench: $(STAMP) ## The quick benchmarks; results in build/benchmarks (see docs/performance.md)
	$(BIN)/python -m benchmarks.submit
	$(BIN)/python -m benchmarks.exact_repeat
	PYTHON=$(PYTHON) benchmarks/peers.sh build/peers
	$(BIN)/python -m benchmarks.chat

lock: ## Write constraints.txt anew (without the packages of torch's GPU build)
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lock/bin/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 \
	    --extra dev pyproject.toml | grep -vE '^(nvidia|cuda|triton)' > constraints.txt

.PHONY: help install demo run check test test-fast chaos mutants fuzz audit bench lock
