# HARMONY. `make help` lists the targets; each builds what it needs in .venv from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# More than the cores of a small machine: the end-to-end tests mostly wait.
WORKERS ?= 5
# The fast ones compute, but for some that wait for a server.
FAST_WORKERS ?= 3
# `make train-base`: DATA is the folder of the shared traces; without it all is made. From scratch: START= STEPS=5000 RATE=2e-3
DATA ?=
SYNTHETIC ?= 0.6
START ?= base
STEPS ?= 1500
RATE ?= 7e-4
# What starts little; the markers stand in pyproject.toml, and tests/kinds.py gives them.
FAST := not (browser or cluster or prometheus or triton or slow or minute or long)
export OMP_NUM_THREADS ?= 1
export POLARS_MAX_THREADS ?= 2
export MPLBACKEND ?= Agg
# Where this is set, every process would compile all that it imports anew: dozens of commands, and every test worker.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help scorecard setup setup-test demo test test-fast coverage lint format bench clean e2e debian-packages generated test-api fuzz audit hashes sbom docs serve-demo wheel-test train-base

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# The stamps hold the time of the last install; they follow the pins and the project file. What is imported is compiled
# when it is, not all 17,000 files at once.
$(VENV)/.installed: constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	@touch $@

# What the demo needs and nothing else: files whose hashes stand in requirements/. Which build of torch that is (for CPUs,
# for GPUs) is left to pip's settings: it fetches what it prefers, and the hashes say whether that is one of the known.
# The build for GPUs needs more.
HASHED := -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --no-build-isolation --require-hashes
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\) .*/\1/p' requirements/torch.txt)
HAS_TORCH := import importlib.metadata as m; raise SystemExit("torch==" + m.version("torch").partition("+")[0] != "$(TORCH)")
WANTS_CUDA := import importlib.metadata as m; raise SystemExit(not any("cuda" in r for r in m.requires("torch")))
define install-torch # into an environment
	@$(1)/bin/python -c '$(HAS_TORCH)' 2>/dev/null || { rm -rf $(1)/torch && \
	  $(1)/bin/python -m pip --disable-pip-version-check download --quiet --no-deps --dest $(1)/torch $(TORCH) && \
	  $(1)/bin/python $(HASHED) --no-index --find-links $(1)/torch --requirement requirements/torch.txt && rm -rf $(1)/torch; }
	@if $(1)/bin/python -c '$(WANTS_CUDA)'; then $(1)/bin/python $(HASHED) --requirement requirements/gpu.txt; fi
endef
$(VENV)/.installed-hashed: $(wildcard requirements/*.txt) pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(HASHED) --requirement requirements/build.txt
	$(call install-torch,$(VENV))
	$(BIN)/python $(HASHED) --requirement requirements/base.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.installed ## install the pinned versions into .venv

setup-test: $(VENV)/.installed-test ## the same with the test tools

# The tests drive the real Prometheus, Alertmanager, Chromium and PostgreSQL. Where apt may be used they are installed,
# otherwise the tests say which command would provide them.
debian-packages:
	@missing=""; for tool in prometheus prometheus-alertmanager chromium; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then run=""; else run="sudo -n"; fi; \
	  $$run apt-get install --yes --no-install-recommends $$missing >/dev/null 2>&1 \
	    || { $$run apt-get update >/dev/null 2>&1 && $$run apt-get install --yes --no-install-recommends $$missing >/dev/null 2>&1; } \
	    || echo "could not install$$missing; their tests will say so"; \
	fi

demo: $(VENV)/.installed-hashed ## replay the bundled trace, print the table, write out/demo/report.html
	$(BIN)/harmony replay synthetic --tune --out out/demo
	@echo "Next: make serve-demo   (a simulated cluster under the real loop: dashboard, API and metrics at http://127.0.0.1:8000)"

$(VENV)/.installed-api: $(VENV)/.installed-hashed requirements/api.txt
	$(BIN)/python $(HASHED) --requirement requirements/api.txt
	@touch $@

serve-demo: $(VENV)/.installed-api ## a simulated cluster under the real loop, with dashboard, API and metrics
	$(BIN)/harmony serve --demo

LINT := $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports
lint: $(VENV)/.installed-test ## format check, lint, strict types, layer contracts
	$(LINT)

# Collecting once beforehand compiles what all workers import, and the tests; in a fresh clone each would do it for itself.
COLLECT := $(BIN)/python -m pytest --collect-only -q -q

test: ## everything that CI runs: all tests, and lint beside them
	@$(MAKE) --no-print-directory -j2 setup-test debian-packages
	@mkdir -p out
	@{ ( $(LINT) ) >out/lint.txt 2>&1 || { cat out/lint.txt; exit 1; }; } & lint=$$!; \
	$(COLLECT) >out/collected.txt || cat out/collected.txt; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=30; tests=$$?; \
	if wait $$lint; then echo "lint: nothing to say"; else echo "lint: see out/lint.txt"; exit 1; fi; exit $$tests

# Apart from `make test`: on Python 3.11 tracing branches costs the computing tests 80 % more.
coverage: ## all tests with the branches they reach, then the files that are not covered whole
	@$(MAKE) --no-print-directory -j2 setup-test debian-packages
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=
	$(BIN)/python -m coverage report --skip-covered --sort=cover

test-fast: $(VENV)/.installed-test ## what to run while working: tests that start no browser, cluster, Prometheus or interpreter
	$(BIN)/python -m pytest -n $(FAST_WORKERS) --dist worksteal --durations=30 -m "$(FAST)"

e2e: $(VENV)/.installed-test debian-packages ## the controller against an API server and a real Prometheus, end to end
	$(BIN)/python -m pytest tests/controller/e2e -v

format: $(VENV)/.installed-test ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test ## time forecasting and replaying
	$(BIN)/python benchmarks/forecast_speed.py
	$(BIN)/python benchmarks/replay_speed.py
	$(BIN)/python -m benchmarks.keda_flood

train-base: $(VENV)/.installed ## train the base model further (DATA=folder of traces, SYNTHETIC=share of synthetic services): out/base
	PYTHONPATH=. $(BIN)/python -u benchmarks/train_base.py $(if $(DATA),--data $(DATA)) --synthetic $(SYNTHETIC) --short \
	  $(if $(START),--start $(START)) --rate $(RATE) --steps $(STEPS) --out out/base --checkpoint out/base.checkpoint

test-api: $(VENV)/.installed-test ## thousands of generated requests against the API's own description
	HARMONY_API_CASES=2000 $(BIN)/python -m pytest tests/api/test_schema.py -q

fuzz: $(VENV)/.installed-test ## hostile input by the thousands: traces, API, model folders, KEDA, journals, lies of Prometheus (`FUZZ="--seed 7"`)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Fresh environments, filled by pip: several hundred megabytes each. `make test` runs the same tests with links instead.
wheel-test: $(VENV)/.installed-test ## build the wheel and try every verb in fresh environments: base alone, then with each extra
	HARMONY_WHEEL_PIP=1 $(BIN)/python -m pytest tests/wheel -v

audit: ## ask for published advisories about the pinned versions (needs the internet)
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

hashes: ## renew requirements/: the hashes of the pinned versions (needs the internet); run it when pins change
	@test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv; }
	$(PYTHON) requirements/lock.py $(VENV)/lock/bin/uv

# In an environment of its own with what the image holds.
IMAGE := $(addprefix --requirement requirements/,base.txt controller.txt api.txt)
BUILDERS := editables hatchling pathspec pluggy trove-classifiers tomlkit pip
sbom: ## what the image holds: out/sbom.cdx.json (CycloneDX) and out/licences.md
	@mkdir -p out
	@test -x $(VENV)/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv $(VENV)/sbom && $(VENV)/sbom/bin/python -m pip install --quiet cyclonedx-bom; }
	@$(PYTHON) -m venv --clear $(VENV)/image
	@$(VENV)/image/bin/python $(HASHED) --requirement requirements/build.txt
	$(call install-torch,$(VENV)/image)
	@$(VENV)/image/bin/python $(HASHED) $(IMAGE)
	$(VENV)/image/bin/python -m pip uninstall --quiet --yes $(BUILDERS)
	$(VENV)/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --of JSON -o out/sbom.cdx.json $(VENV)/image/bin/python
	$(PYTHON) requirements/licences.py out/sbom.cdx.json > out/licences.md
	@rm -rf $(VENV)/image
	@echo "out/sbom.cdx.json, out/licences.md"

docs: $(VENV)/.installed-test ## build the documentation site into out/docs; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs out/docs

scorecard: $(VENV)/.installed ## replay the bundled trace for this release: evidence/ and docs/scorecard.md
	$(BIN)/harmony scorecard --page docs/scorecard.md

generated: $(VENV)/.installed-test ## renew what is generated: CRD, reference pages, KEDA's messages, the chart's settings, pages of results
	$(BIN)/harmony crd > helm/harmony/files/crd.yaml
	$(BIN)/python -m controller.resource.reference
	$(BIN)/python -m harmony.metrics.docs
	$(BIN)/python -m controller.keda.generate
	$(BIN)/python -m harmony.app.chart
	$(BIN)/python -m benchmarks.kernels_results
	$(BIN)/python -m benchmarks.kernels_behaviour
	$(BIN)/harmony evaluate --page-only --page docs/forecast-results.md

clean: ## remove the environment and what was made
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
