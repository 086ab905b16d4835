# Everything sets itself up: a virtual environment in .venv, from pins that were tested together.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check clean

demo: $(INSTALLED)  ## train a small BERT, search what to deploy, write the report (under five minutes)
	$(BIN)/paring demo --out demo-run

# Each worker computes on one thread: two would wait for each other's cores.
test: $(INSTALLED)  ## all tests, side by side on up to four cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

check: $(INSTALLED)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf .venv/checked
	$(BIN)/pip install --quiet --no-deps --no-warn-script-location --target .venv/checked .
	rm -rf build
	cd .venv && MYPYPATH=checked bin/mypy --config-file ../pyproject.toml -p paring

$(INSTALLED): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## removes what make made
	rm -rf .venv build demo-run *.egg-info
