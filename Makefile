# `make` alone lists what there is. Each target sets up what it needs, once.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV ?= .venv
PYTHON ?= python3.11
# cpu or gpu: which of requirements/*.txt is installed
LOCK ?= cpu
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready-$(LOCK)
PYTORCH_CPU := https://download.pytorch.org/whl/cpu

# uv doesn't read pip's settings; where pip is told of a folder of wheels, tell uv too.
FOUND := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
ifneq ($(FOUND),)
export UV_FIND_LINKS ?= $(FOUND)
endif
export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help setup repro test lint lock

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## make the environment in .venv from requirements/cpu.txt (LOCK=gpu: gpu.txt)

$(READY): requirements/$(LOCK).txt requirements/torchvision_cpu.py
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON="; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing requirements/$(LOCK).txt"
	@# The lock is complete, so nothing is resolved: no package can pull in another build of torch.
	@# torch+cpu comes from the sources that this machine is set up with, or else from PyTorch's own index.
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps -r requirements/$(LOCK).txt 2>$(VENV)/uv.log \
	  || $(UV) pip install --python $(BIN)/python --quiet --no-deps -r requirements/$(LOCK).txt \
	       --extra-index-url $(PYTORCH_CPU) --index-strategy unsafe-best-match \
	  || { cat $(VENV)/uv.log; echo "requirements/$(LOCK).txt can't be installed: see above"; exit 1; }
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --editable .
	$(BIN)/python requirements/torchvision_cpu.py
	@rm -f $(VENV)/.ready-*
	@touch $@

repro: $(READY)  ## run the pipeline: whatever of its stages has changed
	$(BIN)/dvc repro
	@echo "The report: $(abspath reports/report.html)"

test: $(READY)  ## run the tests, the pipeline at a small size among them
	$(BIN)/python -m pytest

lint: $(READY)  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(READY)  ## pin all packages anew: requirements/cpu.txt and gpu.txt from pyproject.toml
	$(UV) pip compile pyproject.toml --extra cpu --extra dev $(COMPILE) --no-emit-package torchaudio \
	  --no-emit-package torchcodec -o requirements/cpu.txt
	$(UV) pip compile pyproject.toml --extra gpu --extra dev $(COMPILE) -o requirements/gpu.txt
COMPILE := --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --quiet \
  --custom-compile-command "make lock"
