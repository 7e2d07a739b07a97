# `make` alone lists what there is. Each target sets up what it needs, once.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV ?= .venv
PYTHON ?= python3.11
# cpu or gpu: which of requirements/*.txt is installed
LOCK ?= cpu
# where torch+cpu comes from, unless this machine is set up with a source of its own
PYTORCH_CPU ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(LOCK)

export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1
export BENTOML_DO_NOT_TRACK := True
export PATH := $(abspath $(BIN)):$(PATH)

# uv doesn't read pip's settings: where pip is told of a folder of wheels, tell uv of it. Not with the gpu lock,
# whose torch==2.13.0 a torch 2.13.0+cpu in such a folder would satisfy.
comma := ,
FIND_LINKS = $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
UV_cpu = UV_FIND_LINKS="$${UV_FIND_LINKS-$(subst $() ,$(comma),$(strip $(FIND_LINKS)))}" $(BIN)/uv
UV_gpu = $(BIN)/uv
# With bytecode: containers often set PYTHONDONTWRITEBYTECODE, and each process would compile all that it imports.
INSTALL = $(UV_$(LOCK)) pip install --python $(BIN)/python --quiet --no-deps --compile-bytecode
FROM_PYTORCH := --extra-index-url $(PYTORCH_CPU) --index-strategy unsafe-best-match

.PHONY: help setup repro serve bento flows audit test lint lock

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## make the environment in .venv from requirements/cpu.txt (LOCK=gpu: from gpu.txt)

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON="; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/$(LOCK).txt uv

# The lock is complete, so nothing is resolved: no package can pull in another build of torch.
$(READY): requirements/$(LOCK).txt requirements/torchvision_cpu.py pyproject.toml | $(BIN)/uv
	@echo "Installing requirements/$(LOCK).txt: some minutes the first time"
	@$(INSTALL) -r requirements/$(LOCK).txt 2>$(VENV)/uv.log \
	  || { [ $(LOCK) = cpu ] && $(INSTALL) -r requirements/$(LOCK).txt $(FROM_PYTORCH) 2>>$(VENV)/uv.log; } \
	  || { cat $(VENV)/uv.log; echo "requirements/$(LOCK).txt can't be installed from this machine's package" \
	       "sources$(if $(filter cpu,$(LOCK)),$(comma) nor with torch from $(PYTORCH_CPU)): see above"; exit 1; }
	@$(INSTALL) --editable .
	@$(BIN)/python requirements/torchvision_cpu.py
	@rm -f $(VENV)/.ready-* && touch $@

# The record names the threads: one, so that the next clone's is the same, unless you say otherwise.
repro flows: export OMP_NUM_THREADS ?= 1

repro: $(READY)  ## run the pipeline: whatever of its stages has changed
	$(BIN)/dvc repro
	@echo "The report: $(abspath reports/report.html)"

serve: models/grpo $(READY)  ## serve the critic of the pipeline on http://127.0.0.1:3000
	CRITIC_MODEL=models/grpo $(BIN)/bentoml serve critic.service.bento:Critic

bento: models/grpo $(READY)  ## package it for other machines (LOCK=gpu: for those with GPUs)
	$(BIN)/critic package models/grpo --variant $(LOCK)

models/grpo:
	@echo "There is no critic in $@ yet: train it with \`make repro\`, or fetch it with \`dvc pull $@\`" && exit 1

flows: $(READY)  ## start Prefect's server, a worker and the deployments: the critic is kept current until Ctrl-C
	$(BIN)/python -m flows.up

audit: $(READY)  ## check the critic's record, then make it again in a clean clone and compare
	$(BIN)/critic audit verify
	$(BIN)/critic audit rerun

test: $(READY)  ## run the tests, the pipeline at a small size among them
	$(BIN)/python -m pytest

lint: $(READY)  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# PyTorch's index has torchvision as 0.28.0+cpu. The lock says 0.28.0, which the package index has too.
# Of what a service needs, serve-cpu.txt and serve-gpu.txt have the versions of the full locks.
lock: | $(BIN)/uv  ## pin all packages anew: requirements/*.txt from pyproject.toml (UPGRADE=1: newest)
	$(UV_cpu) $(COMPILE_cpu) || $(UV_cpu) $(COMPILE_cpu) $(FROM_PYTORCH)
	sed -i 's/^\(torchvision==.*\)+cpu$$/\1/' requirements/cpu.txt
	$(UV_gpu) $(COMPILE) $(ALL) --extra gpu -o requirements/gpu.txt
	$(UV_cpu) $(SERVE_cpu) || $(UV_cpu) $(SERVE_cpu) $(FROM_PYTORCH)
	sed -i 's/^\(torchvision==.*\)+cpu$$/\1/' requirements/serve-cpu.txt
	$(UV_gpu) $(COMPILE) --group serve-gpu -c requirements/gpu.txt -o requirements/serve-gpu.txt
COMPILE := pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --no-annotate --quiet --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
ALL := pyproject.toml --extra dev --extra ray
WITHOUT := --no-emit-package torchaudio --no-emit-package torchcodec
COMPILE_cpu := $(COMPILE) $(ALL) --extra cpu $(WITHOUT) -o requirements/cpu.txt
SERVE_cpu := $(COMPILE) --group serve-cpu $(WITHOUT) -c requirements/cpu.txt -o requirements/serve-cpu.txt
