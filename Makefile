# The two commands are `make smoke` and `make test`; both set up all that they need.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export DOCKER_BUILDKIT := 1
TARGET ?= cpu
SPEC ?= docker/smoke.json
TAG ?= evengrad:$(TARGET)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## make .venv with everything, at pinned versions

smoke: install ## train a small job on real prices, on the CPU, and print its verdict
	$(BIN)/python -m job run docker/smoke.json --pretty

test: install ## lint, types and every test that is not slow
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m "not slow and not container"

test-all: test ## the slow tests too
	$(BIN)/pytest -n 3 -m "slow and not container"

test-container: install ## build the images and run them in a Docker engine
	@docker info >/dev/null 2>&1 || { echo "make test-container needs a Docker engine" >&2; exit 1; }
	$(BIN)/pytest -m container

image: install ## an image with a spec: make image SPEC=spec.json TARGET=cuda TAG=evengrad:cuda
	docker build --target $(TARGET) -t $(TAG) --build-arg SPEC=$(SPEC) \
		--build-arg SPEC_SHA256=$$(sha256sum $(SPEC) | cut -d' ' -f1) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

bench: install ## what the gradient ledger costs, beside its peers
	$(BIN)/python -m tests.bench.ledger

pictures: install ## draw the pictures in README anew; needs Debian's chromium
	$(BIN)/python -m tests.pictures_live
	$(BIN)/python -m tests.screenshots

schema: install ## rewrite docker/spec.schema.json and what README.md takes from the code
	$(BIN)/python -m job schema > docker/spec.schema.json
	$(BIN)/python -m tests.readme

clean: ## remove .venv and caches; runs are kept
	rm -rf .venv build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

# torch first and by its exact version: a build for the CPU that pip can find, in a wheel folder or
# an index of your own, is then taken before one that brings gigabytes of CUDA.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "evengrad needs Python 3.11 or newer: make install PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into .venv, which takes a few minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet torch==2.13.0
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[torchjd,deploy,export,dev]'
	@touch $@

.PHONY: help install smoke test test-all test-container image bench pictures schema clean
