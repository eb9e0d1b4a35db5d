# Everything runs from .venv in this checkout; each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The playground is built with Node from a wheel: nothing but Python is needed.
NODE := $(VENV)/.playground
MODULES := playground/node_modules/.package-lock.json
PAGE := api/static/index.html
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix playground

.PHONY: install playground demo up test test-long chaos bench lint format docs-api lock clean

install: $(INSTALLED)

$(INSTALLED): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

playground: $(PAGE)

$(NODE): requirements-playground.lock $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-playground.lock
	@touch $@

$(MODULES): playground/package-lock.json $(NODE)
	@$(NPM) ci --silent
	@touch $@

$(PAGE): $(MODULES) $(shell find playground -name node_modules -prune -o -type f -print)
	@$(NPM) run --silent build -- --logLevel warn

demo: install
	$(BIN)/lybic-guiagent demo

up: install
	$(BIN)/lybic-guiagent up

# Work is stolen, not dealt out: so the tests of a module share what they start.
test: install playground
	@$(NPM) run --silent test
	$(BIN)/python -m pytest -n 3 --dist worksteal

# The tests that are marked as long, which `test` leaves out.
test-long: install playground
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal

# Kills everything again and again for some minutes; CHAOS="--seed 7" repeats a round.
chaos: install
	$(BIN)/python -m tests.chaos $(CHAOS)

# How fast it is, for some minutes; BENCH="step" measures one row, BASE=main compares with another commit.
bench: install
	$(BIN)/python -m benchmarks $(if $(BASE),--base $(BASE)) $(BENCH)

lint: install $(MODULES)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(NPM) run --silent lint

format: install $(MODULES)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@$(NPM) run --silent format

# Runs the examples in docs/api.md, and writes what they are answered below them; and the OpenAPI document that
# the playground is built from.
docs-api: install
	$(BIN)/python -m tests.application
	$(BIN)/python -m tests.e2e.api_examples

# The lock files record hashes and no addresses, so that any index serves them.
LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links --upgrade --quiet
lock: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) pyproject.toml --extra tracing -o requirements.lock
	$(LOCK) pyproject.toml --extra local --extra tracing --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --group build -c requirements-dev.lock -o requirements-build.lock
	$(LOCK) --group playground -c requirements-dev.lock -o requirements-playground.lock

clean:
	rm -rf $(VENV) playground/node_modules api/static .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
