# The two commands are `make smoke` and `make test`; both set up all that they need.
PYTHON ?= python3
TARGET ?= cpu
SPEC ?= docker/smoke.json
TAG ?= evengrad:$(TARGET)
BASE ?= $(shell sed -n s/^PYTHON=//p docker/base-images.env)
BIN := .venv/bin
export DOCKER_BUILDKIT := 1
# Some images set it; then each of the tests' many processes would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

smoke: .venv/run ## train a small job on real prices, on the CPU, and print its verdict
	$(BIN)/python -m job run docker/smoke.json --pretty

test: lint ## lint, types and every test that is not slow
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow and not container and not gpu"

test-all: test ## the slow tests too
	$(BIN)/pytest -n 3 --dist worksteal -m "slow and not container and not gpu"

test-container: install ## build the images and run them in a Docker engine
	@docker info >/dev/null 2>&1 || { echo "make test-container needs a Docker engine" >&2; exit 1; }
	$(BIN)/pytest -m container

test-gpu: install ## what only a GPU shows: its tests, then its measurements, in at most ten minutes
	$(BIN)/python -m tests.gpu

lint: install ## style, types, and which part may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-logo

install: .venv/all ## make .venv with everything, the developers' tools too

image: ## an image with a spec: make image SPEC=spec.json TARGET=cuda TAG=evengrad:cuda
	docker build --target $(TARGET) -t $(TAG) --build-arg PYTHON=$(BASE) --build-arg SPEC=$(SPEC) \
		--build-arg SPEC_SHA256=$$(sha256sum $(SPEC) | cut -d' ' -f1) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

bench: install ## what the gradient ledger costs, beside its peers
	$(BIN)/python -m tests.bench.ledger

pictures: install ## draw the pictures in README and docs anew; needs Debian's chromium
	$(BIN)/python -m tests.support.pictures_live
	$(BIN)/python -m tests.support.pictures_diagnosis
	$(BIN)/python -m tests.support.screenshots

schema: install ## rewrite docker/spec.schema.json and the generated parts of docs/
	$(BIN)/python -m job schema > docker/spec.schema.json
	$(BIN)/python -m tests.support.readme

clean: ## remove .venv and caches; runs are kept
	rm -rf .venv build *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# --- .venv ----------------------------------------------------------------------------------------

# Twice quiet: pip prints errors and nothing else. Modules are compiled when they are first imported.
PIP := $(BIN)/pip --quiet --quiet --no-input --disable-pip-version-check
INSTALL := $(PIP) install --no-compile --root-user-action=ignore
LOCKED := $(INSTALL) --require-hashes --no-deps --no-build-isolation

# torch.lock holds what torch needs, so pip has nothing to resolve for a build without CUDA, and what
# ecos is built with where it has no wheel. torch is named by its exact version: a build for the CPU
# that pip can find, in a wheel folder or an index of your own, is then taken before one that brings
# gigabytes of CUDA.
.venv/run: pyproject.toml torch.lock requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "evengrad needs Python 3.11 or newer: make install PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing what the job needs into .venv, which takes a minute or two"
	@$(PYTHON) -m venv .venv
	@$(LOCKED) -r torch.lock
	@$(INSTALL) torch==2.13.0
	@$(LOCKED) -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/all: .venv/run requirements-dev.lock
	@echo "installing what the tests need into .venv, which takes a minute"
	@$(LOCKED) -r requirements-dev.lock
	@$(PIP) check
	@touch $@

# The versions that the locks hold stay, unless UPGRADE names them.
COMPILE := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE) \
	--generate-hashes --no-emit-package torch --annotation-style line --custom-compile-command "make lock"

lock: ## resolve the dependencies anew; to raise one: make lock UPGRADE='-P numpy'
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(COMPILE) pyproject.toml --all-extras -o requirements-dev.lock
	$(COMPILE) pyproject.toml --extra torchjd --extra export -c requirements-dev.lock -o requirements.lock
	printf "torch\nnumpy\n" | $(COMPILE) - -c requirements-dev.lock -o torch.lock

.PHONY: help install smoke test test-all test-container test-gpu image bench pictures schema lock clean
