# `make demo` and `make test` need python3.11 (or newer), make, and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: demo test lint train-mini clean

demo: $(SETUP)
	mkdir -p out
	$(BIN)/anyv2v edit examples/demo/clip.mp4 --first-frame examples/demo/edited.png \
		-o out/demo.mp4 --sheet out/demo.png --overwrite
	$(BIN)/python examples/demo/truth.py out

test: $(SETUP)
	$(BIN)/python -m pytest -n auto

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

# cpu is ten hours of two cores, gpu half an hour of a large GPU; the same line again goes on where it stopped.
RECIPE ?= cpu
train-mini: $(SETUP)
	$(BIN)/python -m training $(RECIPE) --out out/mini

clean:
	rm -rf $(VENV) out
