# `make` alone lists the targets. Each target installs what it needs, once.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV ?= .venv
PYTHON ?= python3.11
# cpu or gpu: the lock in requirements/ to install
LOCK ?= cpu
# Package index for torch+cpu, used if pip's configured sources don't have it
PYTORCH_CPU ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(LOCK)

export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1
export BENTOML_DO_NOT_TRACK := True
export PATH := $(abspath $(BIN)):$(PATH)

# uv doesn't read pip's settings: pass it pip's find-links. Not for the gpu lock: its torch==2.13.0 would be satisfied
# by a torch 2.13.0+cpu found there.
comma := ,
FIND_LINKS = $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
UV_cpu = UV_FIND_LINKS="$${UV_FIND_LINKS-$(subst $() ,$(comma),$(strip $(FIND_LINKS)))}" $(BIN)/uv
UV_gpu = $(BIN)/uv
# With bytecode: with PYTHONDONTWRITEBYTECODE, common in containers, each process would compile all its imports.
INSTALL = $(UV_$(LOCK)) pip install --python $(BIN)/python --quiet --no-deps --compile-bytecode
FROM_PYTORCH := --extra-index-url $(PYTORCH_CPU) --index-strategy unsafe-best-match

.PHONY: help setup repro seeds serve bento flows audit test nightly rehearse gpu-check docs lint lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 11

setup: $(READY)  ## install requirements/cpu.txt into .venv (LOCK=gpu: gpu.txt)

# The locks are for Python 3.11. Where there is none, uv finds or downloads one; it comes with any other Python.
$(BIN)/uv:
	@if command -v $(PYTHON) >/dev/null; then \
	  echo "Python: $$(command -v $(PYTHON))" && $(PYTHON) -m venv $(VENV); \
	elif uv=$$(command -v uv) || { python3 -m venv $(VENV)/uv && uv=$(VENV)/uv/bin/uv \
	    && $(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv; }; then \
	  echo "There is no $(PYTHON): uv looks for a Python 3.11, or downloads one" && \
	  $$uv venv --seed --allow-existing --python 3.11 $(VENV); \
	else \
	  echo "Install Python 3.11 or uv (https://docs.astral.sh/uv), or name a Python 3.11 with PYTHON="; exit 1; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/$(LOCK).txt uv

# The lock is complete, so dependencies aren't resolved: no package can install another build of torch.
$(READY): requirements/$(LOCK).txt requirements/torchvision_cpu.py pyproject.toml | $(BIN)/uv
	@echo "Installing requirements/$(LOCK).txt (a few minutes the first time)"
	@$(INSTALL) -r requirements/$(LOCK).txt 2>$(VENV)/uv.log \
	  || { [ $(LOCK) = cpu ] && $(INSTALL) -r requirements/$(LOCK).txt $(FROM_PYTORCH) 2>>$(VENV)/uv.log; } \
	  || { cat $(VENV)/uv.log; echo "requirements/$(LOCK).txt can't be installed from the configured package" \
	       "sources$(if $(filter cpu,$(LOCK)), or with torch from $(PYTORCH_CPU)). See above."; exit 1; }
	@$(INSTALL) --editable .
	@$(BIN)/python requirements/torchvision_cpu.py
	@rm -f $(VENV)/.ready-* && touch $@

# One thread, unless you set another number: outputs depend on it, and the record names it. Pictures for a GPU are
# prepared by all cores; stages/launch.py divides them among the processes.
ifeq ($(LOCK),cpu)
repro seeds flows test nightly: export OMP_NUM_THREADS ?= 1
endif

repro: $(READY)  ## run the changed stages of the pipeline
	$(BIN)/dvc repro
	@echo "The report: $(abspath reports/report.html)"

seeds: $(READY)  ## train with three seeds, beside continued SFT: how much of GRPO's gain is luck
	$(BIN)/python benchmarks/seeds.py

# The pipeline's critic if there is one, else the one that comes with the repository.
SERVED := $(or $(CRITIC_MODEL),$(wildcard models/grpo),assets/tiny-critic)
serve: $(READY)  ## serve the critic, or CRITIC_MODEL=FOLDER|HUB_NAME, on port 3000
	CRITIC_MODEL="$(SERVED)" $(BIN)/bentoml serve critic.service.bento:Critic

bento: models/grpo $(READY)  ## package the critic for other machines (LOCK=gpu: with GPUs)
	$(BIN)/critic package models/grpo --variant $(LOCK)

models/grpo:
	@echo "There is no critic in $@ yet. Train it: \`make repro\`. Or package another one: \`critic package" \
	      "FOLDER\`." && exit 1

flows: $(READY)  ## keep the critic current until Ctrl-C: Prefect's server, a worker and the deployments
	$(BIN)/python -m flows.up

audit: $(READY)  ## check the critic's record, then rebuild it in a clean clone and compare
	$(BIN)/critic audit verify
	$(BIN)/critic audit rerun

# Two processes where there are two cores. The tests of a file, or of files that share a fixture, run in one of them.
# vLLM would bind its engines in both to the same core.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 2 --no-loadscope-reorder --durations 25
ifeq ($(LOCK),cpu)
test nightly: export VLLM_CPU_OMP_THREADS_BIND ?= nobind
endif

test: $(READY)  ## run the tests, including the pipeline at a small size
	$(PYTEST)

nightly: $(READY)  ## run what takes too long for each change: more tests, more examples, coverage
	$(PYTEST) -m "nightly or not e2e" --hypothesis-profile nightly --cov --cov-fail-under 90

rehearse: $(READY)  ## run profiles full, single-gpu and paper on a CPU, small, with kills: 30 minutes
	$(BIN)/python tests/rehearse.py

gpu-check: $(READY)  ## measure and check what only a GPU can tell, in ten minutes (LOCK=gpu)
	$(BIN)/python benchmarks/gpu_check.py

# In an environment of its own: the site needs no trainer, and trainings are recorded with their packages.
MKDOCS := NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(UV_cpu) run --quiet --isolated --no-project --python $(BIN)/python \
  --with-requirements requirements/docs.txt mkdocs
docs: | $(BIN)/uv  ## build the documentation site in runs/site, and check its links (SERVE=1: show it while you write)
	$(MKDOCS) $(if $(SERVE),serve,build --quiet)
	@echo "The site: $(abspath runs/site/index.html)"

lint: $(READY)  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# PyTorch's index names torchvision 0.28.0+cpu. The lock says 0.28.0, which the package index has too.
# serve-cpu.txt and serve-gpu.txt have the packages of the service, in the versions of the full locks, and docs.txt
# those of the documentation site.
lock: | $(BIN)/uv  ## pin all packages again: requirements/*.txt from pyproject.toml (UPGRADE=1: newest)
	$(UV_cpu) $(COMPILE_cpu) || $(UV_cpu) $(COMPILE_cpu) $(FROM_PYTORCH)
	sed -i 's/^\(torchvision==.*\)+cpu$$/\1/' requirements/cpu.txt
	$(UV_gpu) $(COMPILE) $(ALL) --extra gpu -o requirements/gpu.txt
	$(UV_cpu) $(SERVE_cpu) || $(UV_cpu) $(SERVE_cpu) $(FROM_PYTORCH)
	sed -i 's/^\(torchvision==.*\)+cpu$$/\1/' requirements/serve-cpu.txt
	$(UV_gpu) $(COMPILE) --group serve-gpu -c requirements/gpu.txt -o requirements/serve-gpu.txt
	$(UV_cpu) $(COMPILE) pyproject.toml --extra docs -c requirements/cpu.txt -o requirements/docs.txt
COMPILE := pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --no-annotate --quiet --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
ALL := pyproject.toml --extra all --extra dev
WITHOUT := --no-emit-package torchaudio --no-emit-package torchcodec
COMPILE_cpu := $(COMPILE) $(ALL) --extra cpu $(WITHOUT) -o requirements/cpu.txt
SERVE_cpu := $(COMPILE) --group serve-cpu $(WITHOUT) -c requirements/cpu.txt -o requirements/serve-cpu.txt
