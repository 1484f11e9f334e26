# make demo: train, export and certify a small MNIST classifier.   make test: lint, types, tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/mnist-quick
EXTRAS ?= test

# Without an NVIDIA driver the CPU build of torch saves gigabytes. Where its index is out of reach, pip would ask it five
# times for every package, so it is not told of it then.
CPU_INDEX := https://download.pytorch.org/whl/cpu
REACHED = $(PYTHON) -c 'from urllib.request import urlopen; urlopen("$(CPU_INDEX)/torch/", timeout=10)' 2>/dev/null
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi || $(REACHED) || echo out of reach),,--extra-index-url $(CPU_INDEX))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test install

demo: install
	@if [ -e $(RUN) ]; then $(BIN)/python cli.py train --resume $(RUN); \
	else $(BIN)/python cli.py train mnist-quick --out $(RUN); fi
	$(BIN)/python cli.py export $(RUN) --out $(RUN)/model.onnx
	$(BIN)/python cli.py verify $(RUN)/model.onnx --count 1000 --json $(RUN)/result.json --report $(RUN)/report.html
	@echo "Open $(RUN)/report.html in a browser."

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time this takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_INDEX) torch
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@
