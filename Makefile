# make            lists the targets
# make demo       phantoms, four sites, a report; sets up .venv first if it is not there
# make test       the default tests; sets up what they need

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := server client common deploy tests
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo federation test test-all bench survey costs check fmt lint types layers docs protos wheel offline-bundle clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[search]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.run
	$(PIP) --editable ".[dev]"
	touch $@

setup: $(VENV)/.run  ## Set up .venv to run fedseg

demo: $(VENV)/.run  ## Train four sites on phantoms and write a report
	$(BIN)/fedseg demo

federation: $(VENV)/.run  ## A real hub and three sites on this machine, each its own processes
	$(BIN)/fedseg federation

# In two processes, one a core: whole federations in the one, everything else in the other.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev  ## The default tests; 8 to 13 minutes were seen on 2 cores
	@held=$$(mktemp); $(BIN)/python -m pytest -p no:cacheprovider tests/integration >$$held 2>&1 & \
	other=$$!; trap 'kill -INT $$other' INT TERM; \
	$(BIN)/python -m pytest --ignore=tests/integration; one=$$?; \
	wait $$other; two=$$?; cat $$held; rm -f $$held; exit $$((one + two))

test-all: $(VENV)/.dev  ## Also the slow ones
	$(BIN)/python -m pytest -m "slow or not slow"

bench: $(VENV)/.dev  ## Every benchmark, one after the other
	for name in federating_cost hub_fold normalisation composable deployment_cost; do \
	  $(BIN)/python tests/benchmarks/$$name.py || exit 1; done

survey: $(VENV)/.dev  ## Train every network and loss as a federation; goes on where it stopped
	$(BIN)/python tests/benchmarks/survey.py

costs: $(VENV)/.dev  ## Measure a training step of every network
	$(BIN)/python tests/benchmarks/network_cost.py

check: fmt lint types layers  ## Format, lint, types, import contracts

fmt: $(VENV)/.dev  ## Is the code formatted?
	$(BIN)/ruff format --check $(SOURCES)

lint: $(VENV)/.dev  ## Lint
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/.dev  ## Types
	$(BIN)/mypy

layers: $(VENV)/.dev  ## Who may import whom
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## Write the pages that are drawn from the code
	$(BIN)/python -m deploy.cli.reference docs/study.md
	$(BIN)/python -m deploy.cli.survey_page docs/survey.md

protos: $(VENV)/.dev  ## Generate common/wire from the .proto files
	$(BIN)/python -m grpc_tools.protoc --proto_path=common/wire=common \
	  --python_out=. --pyi_out=. --grpc_python_out=. common/wire/control.proto common/wire/worker.proto

wheel: $(VENV)/.dev  ## Build the wheel
	$(BIN)/python -m build --wheel

offline-bundle: $(VENV)/.dev  ## Everything for a machine without a network, in dist/offline
	rm -rf dist/offline
	$(BIN)/python -m deploy.offline dist/offline

clean:  ## Remove what was built and set up
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
