# Two commands are enough: `make demo` and `make test`. Each makes its own environment when it is missing.
PYTHON ?= python3
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench clean

# What the demo needs; PyTorch is not among it.
.venv-demo/ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

# Everything: tests, linters, the optional engines.
.venv/ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv-demo/ok
	.venv-demo/bin/coinfer demo $(DEMO)

test: .venv/ok check
	.venv/bin/pytest $(TESTS)

check: .venv/ok
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/basedpyright

clean:
	rm -rf .venv .venv-demo runs build .pytest_cache .hypothesis .ruff_cache .import_linter_cache
