# Set-up, demo and checks. Works in a fresh clone with python3, pip and make.
# pip's own configuration (index, proxy, find-links) is taken from the environment.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CORE := $(VENV)/.mora-bench-core
STAMP := $(VENV)/.mora-bench-installed
RUNS := results/runs

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-slurm lint format results

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Create .venv and install the project with the tested versions

# The stamps are written last: an interrupted installation is taken up again by the next call.
$(CORE): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "Python 3.11 or newer is needed; name one: make venv PYTHON=python3.12" >&2; exit 1; \
		}; \
		$(PYTHON) -m venv $(VENV); \
	}
	$(PY) -m pip install --no-compile --editable . --constraint constraints.txt
	@touch $@

# What tests and style checks need comes on top; running cells needs none of it.
$(STAMP): $(CORE)
	$(PY) -m pip install --no-compile --editable '.[dev]' --constraint constraints.txt
	@touch $@

demo: $(CORE)  ## Compare FFT, LoRA and MoRA on memorising UUIDs (10 minutes on 2 cores)
	$(PY) -m bench -m experiment=demo hydra/launcher=parallel
	$(PY) -m bench.report $(RUNS)/demo

test: $(STAMP)  ## Run the fast tests (under 5 minutes on 2 slow cores, no network)
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

test-slow: $(STAMP)  ## Run the long tests, with the real model and SLURM where there is one
	$(PY) -m pytest -m 'slow or model or slurm' --timeout 3600

test-slurm: $(STAMP)  ## Run the tests that bring up a SLURM of their own (root; Debian's packages)
	$(PY) -m pytest -m slurm

lint: $(STAMP)  ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)  ## Format the code and apply the safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

results: $(STAMP)  ## Make tables, figures and verdicts again from the committed records
	$(PY) scripts/draw_results.py
	$(PY) scripts/cost_report.py $(patsubst %/adapters.json,%,$(wildcard results/cost/adapters.json results/cost/*/adapters.json)) \
		--break-even results/cost/break_even.md
