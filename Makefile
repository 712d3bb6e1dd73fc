# Two commands on a fresh machine: `make demo` and `make test`. Each makes its own environment.
PYTHON ?= python3
VENV ?= .venv
# Without `reference`, the comparisons with PyTorch are left out.
EXTRAS ?= test,reference
# What .ci/run asserts: COVERAGE="--cov --cov-fail-under=90", a seventh more time before Python 3.12.
COVERAGE ?=
RUN = $(VENV)/bin/python

.PHONY: demo test lint clean

demo: $(VENV)/demo-installed
	$(RUN) -m lagseg_jax.main --config=configs/demo.py --workdir=runs/demo

# A worker that dies ends the suite: xdist would wait for what it was to test for ever. Files go out
# in their order: in that of their numbers of tests, the longest, of one or two tests, came last.
test: $(VENV)/test-installed
	$(RUN) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 $(COVERAGE)

lint: $(VENV)/test-installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy lagseg_jax weight_conversion configs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	    sys.exit(v < (3, 11) and "Python %d.%d found, 3.11 or newer needed: make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing this package and what it needs into $(VENV): about 1 GB, once"
	$(RUN) -m pip install --editable .
	touch $@

$(VENV)/test-installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing this package and what its tests need into $(VENV), once"
	$(RUN) -m pip install --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
