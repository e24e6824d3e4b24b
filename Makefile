# make demo   train a small detector, evaluate and export it, draw what it finds
# make test   the tests
# make lint   style
#
# Each makes its environment in $(VENV) first, once, from setup.py.

PYTHON ?= python3
VENV ?= .venv
DEMO_DIR ?= runs/demo
PYTEST_FLAGS ?=

.PHONY: demo test lint

demo: $(VENV)/.installed
	$(VENV)/bin/python -m efficientdet_tf.demo --model_dir=$(DEMO_DIR)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@
