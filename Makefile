# `make` lists the targets.
VENV   := .venv
BIN    := $(VENV)/bin
# use-pep517: builds the one dependency that ships no wheel in isolation, whatever the venv holds.
# -qq: errors only. no-compile: Python compiles what is imported then, a third of the packages' modules.
PIP    := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-input --use-pep517 -c constraints.txt
# 3.11 first: CPU builds of the pinned torch exist for it wherever they exist at all.
PYTHON ?= python3.11 python3.12 python3.13 python3
EXTRAS := dev,optuna,video
PACKAGES_OF = import sys, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*(one for name in sys.argv[1].split(",") for one in extras[name]), sep="\n")
# Threads that spin while they wait take the cores of whatever else runs here.
export OMP_WAIT_POLICY ?= passive
# What Python compiles is kept, whatever the environment says: the next process would do it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help tune test lint format wheel lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo 'Settings: ARGS="search.k=[1,2,3]" (tune), ARGS="-k plan" (test), PYTHON=/path/to/python3.11'

tune: $(VENV)/.installed  ## install, then tune the embedded pair (ARGS="..." overrides settings)
	$(BIN)/python -m ecdiff_tune tune $(ARGS)

test: lint  ## install, lint, check types, run the tests (ARGS="..." goes to pytest)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff, mypy and the layers of the code, changing nothing
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev  ## let ruff fix and format the code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

wheel: $(VENV)/.installed-dev  ## build the wheel and the sdist into dist/
	$(BIN)/python -m build

lock: $(VENV)/.created  ## resolve constraints.txt anew, keeping the pinned torch
	rm -rf build/lock && $(BIN)/python -m venv build/lock
	build/lock/bin/python -m pip install -q --use-pep517 "$$(grep ^torch== constraints.txt)" -e '.[$(EXTRAS)]'
	{ head -n 1 constraints.txt; build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+.*//'; } > build/new.txt
	mv build/new.txt constraints.txt && rm -rf build/lock

clean:  ## remove the environment, builds and caches; outputs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps below are why a second `make tune` or `make test` installs nothing.
$(VENV)/.created:
	@for python in $(PYTHON); do \
	  if $$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then echo "Creating $(VENV) with $$python"; $$python -m venv $(VENV) && touch $@; exit; fi; \
	done; echo 'No Python 3.11, 3.12 or 3.13 with venv found. Name one: make PYTHON=/path/to/python3.11' >&2; exit 1

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'Installing into $(VENV) (minutes the first time)'
	@$(PIP) -e . && touch $@

# The packages of the extras alone: ecdiff itself is there, and takes 7 s to be built again.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo 'Installing into $(VENV) what the tests need'
	@$(BIN)/python -c '$(PACKAGES_OF)' $(EXTRAS) >$(VENV)/extras.txt
	@$(PIP) -r $(VENV)/extras.txt && touch $@
