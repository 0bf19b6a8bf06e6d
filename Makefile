# The commands of this project. `make run` and `make test` are the two that a newcomer needs.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AUDIT := .venv-audit

.PHONY: help run test chaos soak security check audit protos docs bench lock format clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# Installing again only when the locked versions changed keeps a second `make run` fast.
$(READY): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Install, start PostgreSQL and Redis under ./.data, load data, train, serve.
	$(BIN)/recsvc demo

# Tests wait more than they work. Each of the two has servers of its own, so it is one where the environment names them.
TEST_PROCESSES ?= $(if $(RECSVC_DATABASE_URL),0,2)

test: $(READY) ## Run every test on servers that the tests start themselves.
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

chaos: $(READY) ## Kill servers, and break PostgreSQL and Redis in many ways, under load.
	RECSVC_CHAOS_ROUNDS=$${RECSVC_CHAOS_ROUNDS:-60} RECSVC_CHAOS_FAULT_S=$${RECSVC_CHAOS_FAULT_S:-20} \
	  RECSVC_CHAOS_RESTARTS=$${RECSVC_CHAOS_RESTARTS:-10} \
	  $(BIN)/python -m pytest -s tests/chaos/test_rounds.py tests/chaos/test_faults.py tests/chaos/test_replicated_faults.py \
	  tests/chaos/test_rolling_restart.py tests/chaos/test_replicas.py

soak: $(READY) ## Fifteen minutes of steady load: memory, files and connections must not grow.
	RECSVC_SOAK_S=$${RECSVC_SOAK_S:-900} $(BIN)/python -m pytest -s tests/chaos/test_soak.py

security: $(READY) ## Attack the service: keys, tenants, limits, and over a million fuzzed inputs.
	RECSVC_SECURITY_ROUNDS=$${RECSVC_SECURITY_ROUNDS:-30} $(BIN)/python -m pytest -s --timeout 3600 tests/security

check: $(READY) ## Lint, types, layers, known weaknesses, what is generated.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive recsvc clients/python protos bench
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf lint
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m deploy.grafana.render --check

$(AUDIT)/.ready: requirements-audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --require-hashes -r requirements-audit.lock
	@touch $@

audit: $(READY) $(AUDIT)/.ready ## Vulnerabilities, licences and the bill of materials of what runs.
	$(AUDIT)/bin/python .ci/audit.py $(AUDIT_ARGS)

protos: $(READY) ## Generate recsvc/gen from protos/, offline.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf format -w --path protos/recsvc
	$(BIN)/python protos/generate.py

docs: $(READY) ## Write docs/observability.md and Grafana's dashboards from the code.
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.grafana.render

bench: $(READY) ## Measure everything that the README states, in one run.
	$(BIN)/python -m bench

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: ## Pin the versions that pyproject.toml allows, with hashes.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet pyproject.toml --extra embedded --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url -o requirements.lock
	$(BIN)/uv pip compile --quiet pyproject.toml --extra embedded --extra plots --extra dev -c requirements.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-emit-index-url -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --group pyproject.toml:audit --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url -o requirements-audit.lock

clean: ## Remove what was installed and built, and the data under ./.data.
	-$(BIN)/recsvc stop
	rm -rf $(VENV) $(AUDIT) .data build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
