# Each target works as the first command of a fresh clone: tools/setup.py makes the host, then runs its python.
PYTHON ?= python3
HOST = $(PYTHON) tools/setup.py
PORT ?= 8188

.PHONY: help setup demo test lint bench eval serve clean

help:
	@echo "make demo              a story of seven shots through a real ComfyUI server, into demo_output/"
	@echo "make test              lint, core tests, tests against a real ComfyUI server and in a real browser"
	@echo "make bench             the benchmark table"
	@echo "make eval              consistency over whole stories of the small world, against its truth"
	@echo "make serve PORT=8188   ComfyUI with this pack and the demo models, for a browser"
	@echo "make lint, make setup, make clean"

setup:
	@$(HOST)

demo:
	@$(HOST) -m tools.demo

test: lint
	@$(HOST) -m pytest tests/core
	@$(HOST) -m pytest tests/training
	@$(HOST) -m pytest tests/host
	@$(HOST) -m tools.chromium
	@$(HOST) -m pytest tests/browser

lint:
	@$(HOST) -m ruff check .
	@$(HOST) -m ruff format --check .

bench:
	@$(HOST) -m benchmarks

eval:
	@$(HOST) -m evaluation world

serve:
	@$(HOST) -m tools.server $(PORT)

clean:
	rm -rf .host demo_output .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
