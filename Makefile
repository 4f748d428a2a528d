# Two commands do everything on a fresh machine: `make train` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/mnrl_job/__init__.py)
OUTPUT ?= runs
IMAGE ?= mnrl-job
VARIANT ?= cuda
CPU_BASE := debian:bookworm-slim@sha256:7b140f374b289a7c2befc338f42ebe6441b7ea838a042bbd5acbfca6ec875818
CUDA_BASE = $(shell sed -n 's/^ARG BASE=//p' Dockerfile)
# What `make image` and its like take: see docs/image.md.
export BASE WHEELS CERTIFICATES MODEL PIP_CONF EXTRA_INDEX WITH_TRACKERS WITH_EXPORT DATA SHM_SIZE
export DOCKER DOCKER_BUILD_FLAGS DOCKER_RUN_FLAGS

.PHONY: help install install-dev install-export train test test-all check chaos bench image run image-test manifests \
  format docs lock lock-cuda audit licences release-notes clean

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv with the locked packages and the example's base model.

install-dev: $(VENV)/.installed-dev ## Add what tests and checks need.

install-export: $(VENV)/.installed-export ## Add what `mnrl-job export` needs (300 MB).

train: install ## Train on the bundled example (on a CPU where there is no GPU); see examples/support-faq.
	@MNRL_OUTPUT="$${MNRL_OUTPUT:-$(OUTPUT)}" examples/support-faq/train.sh $(BIN)

test: install-dev install-export ## Run the tests one runs before every commit (7 minutes on 2 quiet cores).
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: install-dev install-export ## Run the rest: the same behaviour in more kinds of runs, and the manifests played (minutes).
	@$(BIN)/pytest -m "slow or manifests" -n 3 --dist loadfile --no-loadscope-reorder --timeout 1200 $(ARGS)

manifests: install-dev ## Render k8s/, check it against Kubernetes' and the CRDs' schemas and our rules, and play it (minutes).
	@$(BIN)/pytest tests/kubernetes -m "manifests or not manifests" --timeout 1200 $(ARGS)

chaos: install-dev ## Kill, race, freeze and starve fetchers, publishers and whole runs (about an hour).
	@$(BIN)/pytest -m chaos --timeout 3600 -s $(ARGS)

bench: install-dev $(VENV)/.aws/.installed ## Time storage (about 10 minutes) and, given DATA=folder STOCK=script, training (hours).
	@$(BIN)/python benchmarks/storage.py --aws $(VENV)/.aws/bin/aws $(ARGS)
	@test -n "$(DATA)" -a -n "$(STOCK)" || echo "to time training too: make bench DATA=debian-folder STOCK=stock_recipe.py"
	@test -z "$(DATA)" -o -z "$(STOCK)" || for part in train limit ablation evaluation start memory; do \
	  $(BIN)/python benchmarks/training.py $$part --data "$(DATA)" --stock "$(STOCK)" \
	    --output benchmarks/results/training-$$part.json || exit 1; done

image: BASE ?= $(if $(filter cpu,$(VARIANT)),$(CPU_BASE))
image: ## Build the container image, VARIANT=cuda or cpu, and its bill of materials (dist/); see docs/image.md.
	@scripts/build-image "$(IMAGE)" "$(VERSION)" "$(VARIANT)"

run: ## Run the image in the folder you are in, also with make -C: make run VARIANT=cpu ARGS="train --train-data pairs.jsonl".
	@cd "$(or $(PWD),$(CURDIR))" && OUTPUT="$(OUTPUT)" "$(CURDIR)/scripts/run-image" "$(IMAGE):$(VERSION)-$(VARIANT)" $(ARGS)

image-test: VARIANT = cpu
image-test: install-dev ## Build the image, VARIANT=cpu unless given, and run it as users would (needs Docker; see CONTRIBUTING).
	@base=$$(scripts/debian-base "$(or $(BASE),$(if $(filter cpu,$(VARIANT)),$(CPU_BASE),$(CUDA_BASE)))") && \
	  image=$$(BASE=$$base scripts/build-image "$(IMAGE)" "$(VERSION)" "$(VARIANT)") && \
	  IMAGE=$$image $(BIN)/pytest -n 0 -m image --timeout 1800 tests/image $(ARGS)

check: install-dev ## Check format, lint, types, architecture, shell scripts and generated files.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(BIN)/shellcheck .ci/run $(filter-out %.py,$(wildcard scripts/*)) examples/*/*.sh
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/mnrl-job settings --format env | diff - env.example || { echo "env.example is stale: run make docs"; exit 1; }
	@$(BIN)/mnrl-job settings --format markdown | diff - docs/settings.md || { echo "docs/settings.md is stale: run make docs"; exit 1; }
	@$(BIN)/python scripts/cli_reference.py | diff - docs/cli.md || { echo "docs/cli.md is stale: run make docs"; exit 1; }
	@$(BIN)/python -m mnrl_job.report.metrics_schema | diff - docs/metrics.schema.json || { echo "docs/metrics.schema.json is stale: run make docs"; exit 1; }
	@echo "all checks passed"

format: install-dev ## Format the code and mend what the linter can mend.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: install ## Write the files that are made from the code: env.example; docs: settings.md, cli.md, metrics.schema.json.
	@$(BIN)/mnrl-job settings --format env >env.example
	@$(BIN)/mnrl-job settings --format markdown >docs/settings.md
	@$(BIN)/python scripts/cli_reference.py >docs/cli.md
	@$(BIN)/python -m mnrl_job.report.metrics_schema >docs/metrics.schema.json

lock: install-dev ## Resolve the dependencies anew into the lock files, with hashes.
	@scripts/lock $(BIN)

lock-cuda: install-dev ## Resolve what the CUDA build of torch brings into requirements-cuda.lock (2.6 GB of downloads).
	@scripts/lock-cuda $(BIN)

audit: $(VENV)/.supply/.installed ## Ask for advisories about all that an image may hold (needs the public index).
	@for lock in requirements.lock requirements-cuda.lock requirements-track.lock requirements-export.lock; do \
	  echo "$$lock"; $(VENV)/.supply/bin/pip-audit --strict --disable-pip -r $$lock || exit 1; done

licences: install-dev install-export $(VENV)/.supply/.installed ## Write docs/licences.md, the license of every package.
	@scripts/licences $(VENV) >docs/licences.md

release-notes: ## Print this version's part of CHANGELOG.md; with TAG and URL (of the repository) as the notes of a release.
	@scripts/release-notes "$(VERSION)" $(TAG) $(URL)

clean: ## Remove the environment and caches (never your runs).
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock requirements-torch.lock pyproject.toml scripts/create-venv
	@scripts/create-venv $(PYTHON) $(VENV)
	@echo "installing the locked packages (torch is large, this takes minutes)"
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) -r requirements-torch.lock
	@$(PIP) --no-deps --editable .
	@touch $@

# Programs that live apart: AWS' needs another botocore than ours, and those that look at the packages should be none of them.
$(VENV)/.aws/.installed: PROGRAMS := awscli
$(VENV)/.supply/.installed: requirements-supply.lock
$(VENV)/.supply/.installed: PROGRAMS := --no-deps --require-hashes -r requirements-supply.lock
$(VENV)/.aws/.installed $(VENV)/.supply/.installed:
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check $(PROGRAMS)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.installed-export: $(VENV)/.installed requirements-export.lock
	@$(PIP) --no-deps --require-hashes -r requirements-export.lock
	@touch $@
