# Two commands are enough: `make demo` and `make test`. Each makes .venv when it is missing and installs what it needs.
PYTHON ?= python3
# Modules are compiled when they are first imported, most of them never.
PIP = .venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt
export OMP_NUM_THREADS ?= 1
# Else every process would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE
# One more than there are cores: many tests wait for processes.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')

.PHONY: demo test test-all pytest test-models lint check clean

demo: .venv/demo
	.venv/bin/coinfer demo $(DEMO)

# Linters and tests; types take a minute more and are left to `make check`.
test: lint pytest

pytest: .venv/dev
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(TESTS)

# The long ones too: a few minutes more.
test-all: check
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

# Hundreds of networks, trained, exported and generated ones: half an hour or more. `make test` tries a few of them.
test-models: .venv/dev
	.venv/bin/python -m tests.networks $(MODELS)

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

check: lint
	.venv/bin/basedpyright

clean:
	rm -rf .venv .venv-* runs build .pytest_cache .hypothesis .ruff_cache .import_linter_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("coinfer needs Python 3.10 or newer, this is " + sys.version) if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv .venv

# What the demo needs; PyTorch is not among it.
.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing coinfer into .venv (about a minute)"
	$(PIP) -e '.[plot]'
	@touch $@

# Everything: tests, linters, PyTorch, the optional engines.
.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing coinfer with its tests into .venv (a few minutes)"
	$(PIP) -e '.[dev]'
	@touch $@ .venv/demo
