.DEFAULT_GOAL := help
.SILENT:
.PHONY: help venv demo test lint format docs clean

BIN := .venv/bin

help:  ## list the targets
	grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: .venv/.installed  ## create .venv with the pinned packages

# torch is installed first, so that the other packages take the build that pip chose for it (CPU or CUDA).
# For the small CPU build on Linux, set PIP_EXTRA_INDEX_URL to PyTorch's CPU index.
# compileall uses all cores. pip would compile on one, which takes longer than the rest of the installation.
.venv/.installed: pyproject.toml constraints.txt
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"needs Python 3.11 or newer: python3 is {sys.version.split()[0]}")'
	echo "Installing into .venv ..."
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true  # some packages have files for other versions of Python
	touch $@

demo: venv  ## invert and edit the shipped images with the shipped model
	$(BIN)/edict demo

test: lint  ## lint, then run all tests, in up to four processes
	$(BIN)/python -m tests.browser >/dev/null || echo "No Chromium: the tests that need a browser are skipped."
	$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests/pipeline tests/jobs tests

lint: venv  ## check format, style, types and imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: venv  ## format the code, and fix what the linter can fix
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs: .venv/.docs  ## build the documentation site in build/docs/site
	$(BIN)/python docs/site/build.py

.venv/.docs: .venv/.installed
	echo "Installing the packages of the documentation site ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:  ## remove .venv, builds and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
