.DEFAULT_GOAL := help
.SILENT:
.PHONY: help venv demo test lint format docs clean

BIN := .venv/bin

help:  ## list the targets
	grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: .venv/.installed  ## create .venv with the pinned packages

# torch comes first and alone: its build (CPU or CUDA, as pip is configured) is settled before anything depends on it.
# pip would compile on one core, which takes longer than to install.
# For the small CPU build on Linux, set PIP_EXTRA_INDEX_URL to PyTorch's CPU index.
.venv/.installed: pyproject.toml constraints.txt
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"needs Python 3.11 or newer: python3 is {sys.version.split()[0]}")'
	echo "Installing into .venv ..."
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true  # some files there are of other Pythons
	touch $@

demo: venv  ## run the shipped model end to end on the shipped pictures
	$(BIN)/edict demo

test: lint  ## lint, then run the tests, on as many cores as there are
	$(BIN)/python -m tests.browser >/dev/null || echo "the tests in a browser are left out"
	$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests/pipeline tests/jobs tests

lint: venv  ## check format, style, types and the import contract
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: venv  ## rewrite the code in the house format
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs: .venv/.docs  ## build the documentation site into build/docs/site
	$(BIN)/python docs/site/build.py

.venv/.docs: .venv/.installed
	echo "Installing the packages of the documentation site ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:  ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
