# `.venv` is installed from requirements.lock by plain pip.
PYTHON ?= python3.11
BIN := .venv/bin
TPU_BIN := .venv-tpu/bin

.PHONY: demo test check test-browser test-slow test-long test-versions tpu-check-small tpu-check lock clean

demo: .venv
	$(BIN)/python -m trainer --recipe=quickstart

# Two processes. Each runs whole files, so that shared fixtures are built once (tests/conftest.py).
PYTEST := -m pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder

test: .venv
	$(BIN)/python $(PYTEST)

test-slow: .venv
	$(BIN)/python $(PYTEST) -m "slow and not long"

# Opens the HTML pages in Chromium, which must be installed.
test-browser: .venv
	$(BIN)/python -m pytest -m browser

# Takes half an hour: runs and searches killed at random moments, damaged files, whole benchmarks.
test-long: .venv
	$(BIN)/python $(PYTEST) -m long

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Both compile for TPU chips without a TPU. JAX and TPU's compiler have their own environment.
# The small check has one small backbone; the other recompiles every row of docs/tpu.md, in hours.
tpu-check-small: .venv-tpu
	$(TPU_BIN)/python -m pytest -m tpu_aot --durations=5

tpu-check: .venv-tpu
	$(TPU_BIN)/python -m trainer.tpu.matrix docs/tpu.md

# A failed install is removed, so that the next call starts again instead of trusting it.
# The lock is complete, so pip must not resolve (--no-deps): for a package that another one requires
# with extras, its resolver asks for the newest release, whose hash is not in the lock.
.venv: requirements.lock
.venv-tpu: requirements-tpu-aot.lock
.venv .venv-tpu:
	rm -rf $@
	$(PYTHON) -m venv $@
	($@/bin/pip install --quiet --require-hashes --no-deps --requirement $< \
	  && $@/bin/pip install --quiet --no-deps --no-build-isolation --editable . \
	  && $@/bin/pip check) \
	  || (rm -rf $@; exit 1)
	touch $@

# Needs uv (https://docs.astral.sh/uv/) on the PATH. Locks name no index: pip uses the user's own.
# The second lock is resolved from the first, so that packages in both have the same version.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --extra cpu --extra dev
lock:
	$(LOCK) --upgrade --output-file requirements.lock
	cp requirements.lock requirements-tpu-aot.lock
	$(LOCK) --extra tpu-aot --output-file requirements-tpu-aot.lock

# The quick tests under each Python that we support, with the locked packages, and under the oldest
# Python with the lowest and with the newest releases that pyproject.toml allows. Needs uv, which
# finds these Pythons or fetches them. Other releases deprecate other things, so only here such a
# warning isn't an error.
ENVIRONMENTS := 3.12 3.13 lowest newest
test-versions: test $(ENVIRONMENTS:%=test-in-%)

.PRECIOUS: .venv-3.%
test-in-%: .venv-%
	$</bin/python $(PYTEST) -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning \
	  -W ignore::FutureWarning

.venv-3.%: requirements.lock
	uv venv --quiet --clear --python 3.$* $@
	$(INSTALL)

.venv-lowest .venv-newest: pyproject.toml
	uv venv --quiet --clear --python 3.11 $@
	uv pip compile --quiet --resolution=$(RESOLUTION) --python-version 3.11 --extra cpu --extra dev \
	  --output-file $@/requirements.txt $<
	$(INSTALL)

.venv-lowest: RESOLUTION := lowest-direct
.venv-newest: RESOLUTION := highest
.venv-lowest .venv-newest: LIST = $@/requirements.txt
LIST = requirements.lock
define INSTALL
(uv pip install --quiet --compile-bytecode --python $@ --no-deps --requirement $(LIST) \
  && uv pip install --quiet --python $@ --no-deps --editable . \
  && uv pip check --quiet --python $@) \
  || (rm -rf $@; exit 1)
touch $@
endef

clean:
	rm -rf .venv .venv-* build dist *.egg-info
