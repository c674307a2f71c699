# make bench   what cnnscale does, in about a minute      make test       all tests
# make lint    format, lint and types                     make campaign   the long property tests
# make benchmarks   every claim about speed               make clean      undo all of it
#
# The first target that needs it creates .venv and installs into it; PYTHON names the interpreter to build it with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
CONSTRAINTS := .ci/constraints.txt
INSTALL := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --constraint $(CONSTRAINTS) --editable

.PHONY: bench test lint format campaign benchmarks clean
.DELETE_ON_ERROR:

bench: $(VENV)/dev.stamp
	$(BIN)/python -m cnnscale bench resnet18 --phi 0 1 2

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

campaign: $(VENV)/dev.stamp
	CNNSCALE_PROFILE=campaign $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cnnscale

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: $(VENV)/benchmarks.stamp
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/twin_speed.py
	$(BIN)/python benchmarks/widths.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Made anew where the interpreter, the dependencies or the pins changed; the stamp comes last, so an installation that
# failed half-way is repeated.
$(VENV)/dev.stamp: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cnnscale needs Python 3.10 or newer; say make PYTHON=python3.11")'
	@echo "Creating $(VENV): PyTorch and the test tools, about 6 GB on Linux. This happens once."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev]'
	touch $@

$(VENV)/benchmarks.stamp: $(VENV)/dev.stamp
	$(INSTALL) '.[benchmarks]'
	touch $@
