# `make` lists the targets. ARGS="…" goes on to the program; PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test conformance interop check format lock parts bench crash sbom clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## make .venv with everything that developing needs

demo: $(VENV)/.server ## run the main job end to end: five organisations, real processes, every step checked
	@$(BIN)/connector demo $(ARGS)

test: $(VENV)/.dev ## run the tests; ARGS="-k consent" chooses some, PARTS=embedded starts no servers
	$(BIN)/python -m pytest $(ARGS)

conformance: $(VENV)/.dev ## run the official DSP conformance kit on both stores: 65 tests each
	$(BIN)/python -m tests.conformance

interop: $(VENV)/.dev ## talk to a real Eclipse EDC, as its provider and as its consumer, and read the bytes
	$(BIN)/python -m pytest tests/interop $(ARGS)

check: $(VENV)/.dev ## lint, formatting, types, layer rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict connector
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code and repair what ruff can
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

parts: $(VENV)/.dev ## install the tests' real parts ahead: OPA, Kafka, EDC, Keycloak, the DSP kit; look for PostgreSQL
	$(BIN)/python -m tests.parts.install

bench: $(VENV)/.dev ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

crash: $(VENV)/.dev ## kill connectors in the middle of many contracts; ARGS="--rounds 20 --blows 50 --postgres"
	$(BIN)/python -m tests.crash $(ARGS)

sbom: $(VENV)/.dev ## write build/sbom.cdx.json: what the runtime is made of, from its lock file (CycloneDX)
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements requirements/server.lock --pyproject pyproject.toml --output-reproducible \
		--short-PURLs --of JSON -o build/sbom.cdx.json

lock: $(BIN)/uv ## resolve pyproject.toml into requirements/*.lock; ARGS=--upgrade takes newer versions
	$(LOCK) --extra server pyproject.toml -o requirements/server.lock
	$(LOCK) --extra server --extra dev pyproject.toml -o requirements/dev.lock

clean: ## remove what was made here, .venv too (not the cache of the tests' real parts)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how .venv comes about: a stamp file per set of packages, renewed when its lock or pyproject.toml changes ---

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(ARGS)

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
		echo "No '$(PYTHON)' on PATH: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "The connector needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V)." \
			"Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' can't make virtual environments: install its venv module" \
			"(on Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.server: requirements/server.lock pyproject.toml | $(VENV)/.made
	$(PIP) --require-hashes -r requirements/server.lock
	$(PIP) --no-deps -e .
	@touch $@

# The dev lock contains the server's packages too, so both stamps are renewed.
$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/.made
	$(PIP) --require-hashes -r requirements/dev.lock
	$(PIP) --no-deps -e .
	@touch $(VENV)/.server $@

$(BIN)/uv: | $(VENV)/.made
	$(PIP) uv
