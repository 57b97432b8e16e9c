# `make reproduce` runs digits for a table and pictures of your own, `make report` makes all pages
# and pictures of the committed results again, `make test` tests. Each installs what it needs into
# .venv first, with uv where it is on the PATH and with pip elsewhere.
PYTHON ?= python3
PYTHON_OLDEST ?= python3.10
BIN := .venv/bin
UV := $(shell command -v uv)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install)

.PHONY: reproduce report test test-oldest test-slow check format

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e ".[bench,dev]"
	touch $@

reproduce: .venv/installed
	$(BIN)/python -m benchmarks run --dataset digits --seeds 0 1 2 --results reproduced
	$(BIN)/python -m benchmarks report --dataset digits --results reproduced --output reproduced

report: .venv/installed
	$(BIN)/python -m benchmarks report

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --durations=15

# The lowest versions that pyproject.toml admits, 5 GB with the CUDA libraries that torch brings.
.venv-oldest/installed: pyproject.toml
	rm -rf .venv-oldest
	$(if $(UV),uv venv --python $(PYTHON_OLDEST),$(PYTHON_OLDEST) -m venv) .venv-oldest || { echo \
	"PYTHON_OLDEST: expected Python 3.10, the oldest supported; got $(PYTHON_OLDEST), which does not" \
	"start. Name its path: make test-oldest PYTHON_OLDEST=..."; exit 1; }
	$(if $(UV),,.venv-oldest/bin/python -m pip install uv) # pip cannot choose the lowest
	PATH="$$PATH:.venv-oldest/bin" uv pip install --python .venv-oldest/bin/python \
	--resolution lowest-direct -e ".[bench,dev]"
	touch $@

# Warnings are errors, but for what old packages say of newer ones, faiss of torch, and torch of its
# own unpickling and checkpoints.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n auto -m "not slow" -W ignore::DeprecationWarning \
	-W "ignore:TypedStorage is deprecated" -W ignore::FutureWarning

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
