# One command each, on a fresh machine with Python 3.11+, make and a package index.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all check trust audit coverage lock docs format clean

demo: $(STAMP)
	$(BIN)/palate demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

# generated inputs at every door and faults in real jobs: two tables
trust: $(STAMP)
	$(BIN)/python -m trust

# pins, hashes, licences, SBOM and advisories of what Palate depends on; exit code 3: not all of it could be checked
audit: $(STAMP)
	$(BIN)/python scripts/audit.py

# requirements.lock and docs/licences.md, after constraints.txt changed
lock: $(STAMP)
	$(BIN)/python scripts/lock.py
	$(BIN)/python scripts/audit.py --write

# docs/cli.md and docs/config.md, from the code
docs: $(STAMP)
	$(BIN)/python scripts/pages.py

coverage: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu" --cov=src/palate --cov-report=term:skip-covered

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and pinned: an unpinned torch pulls gigabytes of CUDA packages onto machines without a GPU
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 12) or sys.exit(f'Palate needs Python 3.11 or 3.12, found {v[0]}.{v[1]}; set PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo runs dist build
