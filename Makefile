# Two commands for a new user: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo test test-cluster check lint audit bench gpu-check gpu-train docs constraints moon

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: setup
	$(BIN)/farfield demo

# Files of tests are shared out among processes; a test alone: .venv/bin/pytest FILE.
# Ray keeps how it authenticates for as long as a process lives: clusters have one of their own.
CLUSTERS := tests/actors/test_ray_cluster.py
test: setup
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --ignore=$(CLUSTERS)
	$(BIN)/pytest $(CLUSTERS)

# Several hosts (network namespaces, which need root), jobs, servers and schedules: minutes each.
test-cluster: setup
	$(BIN)/pytest tests/cluster -m cluster

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint

# Known vulnerabilities of what is pinned; needs a vulnerability service, so it is no part of `check`.
audit: setup
	$(BIN)/pip install --quiet --disable-pip-version-check "pip-audit>=2.9"
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench: setup
	$(BIN)/farfield bench speed
	$(BIN)/farfield bench scale

# On a machine with a GPU, in 8 minutes: what it makes of the way down. Elsewhere it says that there is none.
gpu-check: setup
	timeout 480 $(BIN)/python -m benchmarks.speed.gpu

# Go on with training the base that is shown examples, from the state in TRAINING, or begin from the shipped one.
MINUTES ?= 60
TRAINING ?= training/in-context
gpu-train: setup
	$(BIN)/python -m ood_core.pretraining.in_context_trainer $(TRAINING) --minutes $(MINUTES) --workers 4 \
		--start-from models/in-context-worlds --export $(TRAINING)/export

# The site, into site/: open site/index.html. Not part of the tests.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# Resolve anew what constraints.txt pins; run in a clean environment after changing a range.
constraints: setup $(VENV)/.docs
	$(BIN)/pip freeze --exclude-editable > constraints.txt

# The Moon for the mosaic domain: USGS and Clementine maps, public domain (Debian's stellarium-data, 246 MB to fetch).
moon: data/moon_4k.jpg

data/moon_4k.jpg:
	mkdir -p data/deb
	cd data/deb && apt-get download stellarium-data
	dpkg-deb --fsys-tarfile data/deb/stellarium-data_*.deb | tar xO ./usr/share/stellarium/textures/moon_4k.jpg > $@.partial
	mv $@.partial $@ && rm -r data/deb
