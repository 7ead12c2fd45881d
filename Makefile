# Each target makes its own environment; it needs Python and make. PYTHON= chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test chaos leaks lint clean

# make demo ARGS="--once"  runs the demo to its end instead of serving until Ctrl-C.
demo: $(VENV)/demo
	$(BIN)/python manage.py demo $(ARGS)

# make test ARGS="-k relay"  chooses tests; without ARGS the coverage is checked too.
test: lint
	$(BIN)/python .ci/matrix.py $(ARGS)

# make chaos SEED=7 SECONDS=60  breaks workers and servers at random, then checks what became of every job.
chaos: $(VENV)/lint
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

# make leaks  runs 50,000 jobs and looks at what is kept of them; it takes half an hour.
leaks: $(VENV)/lint
	mkdir -p $(VENV)/leaks
	LEAK_JOBS=50000 PROJECT_DATA=$(VENV)/leaks $(BIN)/python -m tests.postgres \
		$(BIN)/python -m pytest tests/faults/test_leaks.py -s -o faulthandler_timeout=0

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

clean:
	rm -rf $(VENV) .demo

$(VENV)/demo $(VENV)/lint: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile --editable '.[$(notdir $@)]'
	touch $@
