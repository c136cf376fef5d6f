# Needs Python 3.11 to 3.13 and make. Everything is installed into .venv; nothing outside it is touched.

PYTHON ?= python3
MODEL ?= smollm2
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .setup
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

.PHONY: setup demo test check audit bench browser screenshots
.DEFAULT_GOAL := setup

setup: $(STAMPS)/run  ## install what the program needs

demo: $(STAMPS)/run  ## train, measure, correct and undo on SmolLM2, or on another model: make demo MODEL=starter
	@model="$(MODEL)"; \
	if [ "$$model" = smollm2 ] && ! $(BIN)/ouroboros model get smollm2; then \
		echo "The demo runs on the bundled starter model instead, which is a toy." >&2; model=starter; fi; \
	exec $(BIN)/ouroboros demo --model "$$model" --store "./demo-store/$${model##*/}"

test: $(STAMPS)/dev $(STAMPS)/servers $(STAMPS)/browser  ## the whole test suite
	PATH="$$PATH:$(CURDIR)/$(STAMPS)/npm/node_modules/.bin" $(BIN)/python -m pytest $(ARGS)

check: $(STAMPS)/dev  ## style, names, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_language.py

browser: $(STAMPS)/browser  ## install what the page's tests and screenshots need: Chromium and axe-core

screenshots: $(STAMPS)/dev $(STAMPS)/browser  ## pictures of the page on SmolLM2, into .setup/screenshots and docs/images
	$(BIN)/python docs/make_screenshots.py --model "$(MODEL)"

audit: $(STAMPS)/dev  ## a bill of materials (sbom.json), and known vulnerabilities where data can be had
	$(BIN)/python .ci/audit.py

bench: $(STAMPS)/dev  ## list the benchmarks, or run one: make bench NAME=w2
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

$(STAMPS)/venv:
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: pyproject.toml constraints.txt | $(STAMPS)/venv
	@echo "Installing the program and its libraries into $(VENV) (PyTorch is the large one)"
	$(PIP) --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/run
	@echo "Installing what tests and checks need into $(VENV)"
	$(PIP) --editable ".[dev]"
	@touch $@

# The stores' tests want a PostgreSQL server and Azure's stand-in; without them they are skipped, saying so.
$(STAMPS)/servers: | $(STAMPS)/venv
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the Debian package postgresql, for tests"; \
			apt-get update -qq && \
			apt-get install -y -qq --no-install-recommends postgresql >/dev/null || true; \
		else echo "No PostgreSQL server: its tests are skipped (apt-get install postgresql)"; fi; fi
	@if ! command -v azurite-blob >/dev/null; then \
		if command -v npm >/dev/null; then \
			echo "Installing the npm package azurite into $(STAMPS)/npm, for tests"; \
			npm install --silent --no-audit --no-fund --prefix $(STAMPS)/npm azurite@3 >/dev/null || true; \
		else echo "No npm: Azure's tests are skipped (apt-get install npm)"; fi; fi
	@touch $@

# The page's tests drive Debian's Chromium; without it they are skipped, saying so.
$(STAMPS)/browser: | $(STAMPS)/venv
	@if ! command -v chromium >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the Debian packages chromium and fonts-inter-variable, for tests of the page"; \
			apt-get update -qq && \
			apt-get install -y -qq --no-install-recommends chromium fonts-inter-variable >/dev/null || true; \
		else echo "No Chromium: the page's tests are skipped (apt-get install chromium)"; fi; fi
	@if ! ls $(STAMPS)/npm/node_modules/axe-core/axe.min.js >/dev/null 2>&1; then \
		if command -v npm >/dev/null; then \
			echo "Installing the npm package axe-core into $(STAMPS)/npm, for tests of the page"; \
			npm install --silent --no-audit --no-fund --prefix $(STAMPS)/npm axe-core@4 >/dev/null || true; \
		else echo "No npm: the page's accessibility is not tested (apt-get install npm)"; fi; fi
	@touch $@
