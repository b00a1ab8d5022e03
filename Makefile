# make align [RECIPE=my.yaml] [STORE=/data/run1]   set up and run everything: corpus, alignment, evaluation
# make ui    [RECIPE=...] [STORE=...]              open Dagster on it (default: the last used)
# make test                                        set up and run the tests
# make check                                       lint, formatting, types, import contracts
# make setup-locked                                core, train and graph alone, each file checked by its SHA-256 (SECURITY.md)
# make requirements-lock.txt                       update the list of these files, after pyproject.toml or constraints.txt changed
# make setup | clean                               the environment alone | remove it and the caches of tools
PYTHON ?= python3
RECIPE ?=
STORE ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1
export RAY_USAGE_STATS_ENABLED = 0
# seqeval comes as source: an old pip would build it with the venv's own setuptools, which cannot fetch what it needs
export PIP_USE_PEP517 = 1

PY := .venv/bin/python
STAMP := .venv/.set-up

.PHONY: align ui test check setup setup-locked clean
.DEFAULT_GOAL := align

align: $(STAMP)
	@$(PY) -m assets align $(or $(RECIPE),sample.yaml) --store $(or $(STORE),store)

ui: $(STAMP)
	@$(PY) -m assets ui $(RECIPE) $(if $(STORE),--store $(STORE))

test: $(STAMP)
	@$(PY) -m pytest -m 'not network and not gpu' -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || { echo "Setting up: making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "Setting up: installing the versions of constraints.txt into .venv (a few minutes, about 3 GB)"
	@$(PY) -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	@grep -q '# isogloss' .venv/bin/activate || { \
	  echo '# isogloss: the graph that dagster and dg load, and where their instance is'; \
	  echo 'export DAGSTER_MODULE_NAME=assets.definitions'; \
	  echo 'export DAGSTER_HOME="$${DAGSTER_HOME:-$(CURDIR)/.dagster}"'; \
	  echo 'export HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 RAY_USAGE_STATS_ENABLED=0'; \
	} >> .venv/bin/activate
	@$(PY) -m assets home
	@touch $@
	@echo "Set up."

# Core, train and graph with the SHA-256 of every file on PyPI that they may be installed from (SECURITY.md)
requirements-lock.txt: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/python -m pip install --quiet uv
	@echo 'setuptools>=77' | .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
	  --no-annotate --default-index https://pypi.org/simple --custom-compile-command 'make requirements-lock.txt' \
	  --extra graph --extra train -c constraints.txt -o $@ pyproject.toml -

setup-locked:
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --require-hashes --only-binary :all: -r requirements-lock.txt
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(PY) -m assets home
	@echo "Set up with checked files. Start it with .venv/bin/isogloss align."

clean:
	rm -rf .venv .dagster .pytest_cache .ruff_cache .import_linter_cache *.egg-info build
	find . -name __pycache__ -prune -exec rm -rf {} +
