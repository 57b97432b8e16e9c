# Two commands: `make reproduce` (table and pictures) and `make test`. Both install what they need
# into .venv first, with uv where it is on the PATH and with pip elsewhere.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install)

.PHONY: reproduce test test-slow check format

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e ".[bench,dev]"
	touch $@

reproduce: .venv/installed
	$(BIN)/python -m benchmarks run --dataset digits --seeds 0 1 2 --results reproduced
	$(BIN)/python -m benchmarks report --dataset digits --results reproduced --output reproduced

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n auto --dist worksteal tests/functional tests/losses

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
