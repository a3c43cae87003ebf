# The environment is made from requirements.lock by plain pip.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test check test-slow lock clean

demo: .venv
	$(BIN)/python -m trainer --recipe=quickstart

test: .venv
	$(BIN)/python -m pytest

test-slow: .venv
	$(BIN)/python -m pytest -m slow

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A broken install is removed, so that the next call starts afresh instead of trusting it.
# The lock is complete, so pip resolves nothing (--no-deps): its resolver asks for the newest release
# of a package that another one wants with extras, and then misses that release's hash in the lock.
.venv: requirements.lock
	rm -rf .venv
	$(PYTHON) -m venv .venv
	($(BIN)/pip install --quiet --require-hashes --no-deps --requirement requirements.lock \
	  && $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable . \
	  && $(BIN)/pip check) \
	  || (rm -rf .venv; exit 1)
	touch .venv

# Needs uv (https://docs.astral.sh/uv/) on the PATH. Names no index: pip takes the user's own.
lock:
	uv pip compile pyproject.toml --extra cpu --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --upgrade --output-file requirements.lock

clean:
	rm -rf .venv build dist *.egg-info
