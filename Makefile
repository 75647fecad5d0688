# `make demo` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file's tests stay together: they share what is slow to make.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check e2e faults clusters bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

demo: $(READY)  ## run the whole pipeline, offline, on a generated catalog
	$(BIN)/python cli.py demo

test: check e2e  ## all but the kills that take minutes

check: $(READY)  ## format, lint, types, unit and property tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit tests/property -m 'not slow' $(PARALLEL)

e2e: $(READY)  ## the README's commands on a small catalog
	$(BIN)/python -m pytest tests/e2e $(PARALLEL)

faults: $(READY)  ## kill the cache's writer before and after its every step
	$(BIN)/python -m pytest tests/unit -m slow

clusters: $(READY)  ## a real Ray cluster and a real Slurm on this machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt -c constraints.txt
	$(BIN)/python -m pytest tests/clusters -n 2 --dist loadfile  # they wait more than they work

bench: $(READY)  ## print benchmark figures and append them to benchmarks/results
	@for script in benchmarks/help.py benchmarks/cache.py benchmarks/neighbors.py benchmarks/import_export.py benchmarks/embed.py benchmarks/demo.py benchmarks/fit.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and the demo's workspace
	rm -rf $(VENV) demo-workspace
