# Everything a fresh machine needs: `make run` for the app, `make test` for all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := run
.PHONY: run test lint wheel clean

run: $(VENV)/.app-ready  ## start the app
	$(BIN)/python app.py

test: $(VENV)/.dev-ready lint  ## browser, linters, every test
	$(BIN)/python tests/install_browser.py
	$(BIN)/python -m pytest

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.dev-ready  ## dist/sima_lens-….whl: the library and the command sima-lens
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf $(VENV) dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 run")'
	@echo "Making the environment in $(VENV) …"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app-ready: requirements.txt | $(BIN)/python
	@echo "Installing what the app needs (a few minutes, once) …"
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev-ready: requirements-dev.txt $(VENV)/.app-ready | $(BIN)/python
	@echo "Installing what the tests need …"
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@
