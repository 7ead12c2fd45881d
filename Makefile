# Each target makes its own environment; it needs Python and make. PYTHON= chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test chaos leaks rq-suite bench lint messages clean

# make demo ARGS="--once"  runs the demo to its end instead of serving until Ctrl-C.
demo: $(VENV)/demo
	$(BIN)/python manage.py demo $(ARGS)

# make test ARGS="-k relay"  chooses tests; without ARGS the coverage is checked too.
test: lint
	$(BIN)/python .ci/matrix.py $(ARGS)

# make chaos SEED=7 SECONDS=60  breaks workers and servers at random, then checks what became of every job.
chaos: $(VENV)/lint
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

# make leaks  runs 50,000 jobs and looks at what is kept of them; it takes a minute or two.
leaks: $(VENV)/lint
	mkdir -p $(VENV)/leaks
	LEAK_JOBS=50000 PROJECT_DATA=$(VENV)/leaks $(BIN)/python -m tests.postgres \
		$(BIN)/python -m pytest tests/faults/test_leaks.py -s -o faulthandler_timeout=0

# make rq-suite WORKER=package.module.Class ARGS="-k callbacks"  runs RQ's own tests with a worker class of ours.
rq-suite: $(VENV)/rq-suite
	$(BIN)/python -m tests.rq_suite $(if $(WORKER),--worker $(WORKER)) $(ARGS)

# make bench ARGS="--only rq,taskiq --rounds 1"  measures the worker beside its peers. Without ARGS it takes an hour,
# and then measures the admin's pages at 10, 100,000 and 1,000,000 jobs.
bench: $(VENV)/lint
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m tests.postgres $(BIN)/python -m benchmarks.pages)

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

# make messages  brings the translations up to date with the texts; new ones are then to be written. It needs gettext.
messages: $(VENV)/lint
	cd django_jobs && $(abspath $(BIN))/python -m django makemessages --all --no-location --no-obsolete
	sed -i '/^"POT-Creation-Date:/d' django_jobs/locale/*/LC_MESSAGES/django.po
	cd django_jobs && $(abspath $(BIN))/python -m django compilemessages

clean:
	rm -rf $(VENV) .demo

$(VENV)/demo $(VENV)/lint $(VENV)/rq-suite: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile --editable '.[$(notdir $@)]'
	touch $@
