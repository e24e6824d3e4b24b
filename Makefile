# make demo   train a small detector, evaluate and export it, draw what it finds
# make test   the tests, but for thorough ones
# make test-all   all tests, which takes minutes more: before a release
# make lint   style and types
# make docs   the documentation site, in build/site
#
# Each makes its environment in $(VENV) first, once, from setup.py.

PYTHON ?= python3
VENV ?= .venv
DEMO_DIR ?= runs/demo
# Files share what is costly to make.
PYTEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint docs

demo: $(VENV)/.installed
	$(VENV)/bin/python train.py --config=digits --model_dir=$(DEMO_DIR)
	$(VENV)/bin/python eval.py --model_path=$(DEMO_DIR)
	$(VENV)/bin/python -m export --model_dir=$(DEMO_DIR) --format=saved_model,tflite
	$(VENV)/bin/python -m efficientdet_tf write_digits --output=$(DEMO_DIR)/images
	$(VENV)/bin/python -m efficientdet_tf predict --model_path=$(DEMO_DIR)/export/saved_model \
		--input=$(DEMO_DIR)/images --output=$(DEMO_DIR)/detections
	-$(VENV)/bin/python -m export --model_dir=$(DEMO_DIR) --format=web
	@echo
	@echo "The run, its weights and metrics.csv:   $(DEMO_DIR)"
	@echo "How it went, for a browser:             $(DEMO_DIR)/report.html"
	@echo "The evaluation, with its curves:        $(DEMO_DIR)/evaluation"
	@echo "A SavedModel and a TFLite file:         $(DEMO_DIR)/export"
	@echo "Images with detections:                 $(DEMO_DIR)/detections"
	@echo "A page that detects in the browser: run"
	@echo "  $(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory $(DEMO_DIR)/export/web 8000"
	@echo "and open http://127.0.0.1:8000; images of digits are in $(DEMO_DIR)/images"

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) -m "not thorough"

test-all: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	$(VENV)/bin/zensical build --strict

# mediapipe asks for an absl-py that tf-models-official's other packages refuse, and works with theirs.
# Compiled on all cores afterwards, as pip does so on one.
$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --no-compile --no-deps 'mediapipe==1.2.*'
	-$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib
	touch $@
