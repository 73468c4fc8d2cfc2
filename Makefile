# Everything a person or CI does here. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# In CI nothing may be skipped: what a test needs has been installed by `make debian`.
STRICT := $(if $(CI),--no-skips)

.DEFAULT_GOAL := help
.PHONY: help run test check bench chaos soak schemas debian sandbox-image clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Cairn needs Python 3.11 or newer; this is " + sys.version)'
	@$(PYTHON) -m venv .venv || { echo "no virtual environment could be made: on Debian, apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@

run: $(READY) ## carry out the example plan, from nothing to a tested, approved, committed result
	@if [ -t 0 ]; then yes=; else yes=--yes; fi; \
	$(BIN)/cairn run examples/momentum/plan.json --scripted examples/momentum/script $$yes

test: $(READY) ## all tests, on a real Postgres and a real NATS (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(STRICT) $(ARGS)

check: $(READY) ## lint, formatting, types, architecture, schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(BIN)/python -m ops.schemas --check

bench: $(READY) ## the figures of the README, as JSON lines
	$(BIN)/cairn bench tasks
	$(BIN)/cairn bench failures
	$(BIN)/cairn bench ledger

chaos: $(READY) ## kill -9 and worse for half an hour: 200 storms over the ledger, 50 over running plans
	$(BIN)/python -m tests.chaos.test_storms $(or $(STORMS),200)
	$(BIN)/python -m tests.journeys.test_faults $(or $(PLANS),50)

soak: $(READY) ## 1,000 random plans with agents nobody can rely on, and a server that is killed now and then
	$(BIN)/python -m tests.journeys.test_soak $(or $(RUNS),1000)

schemas: $(READY) ## write schemas/ anew from the structs
	$(BIN)/python -m ops.schemas

debian: ## what some tests need from Debian (as root): bubblewrap, a Docker engine, debootstrap, faketime, Prometheus
	apt-get update -qq
	@# The programs of Prometheus, and not the service: `systemctl unmask prometheus` if you want that too.
	command -v prometheus >/dev/null || { mkdir -p /etc/systemd/system && \
		ln -sfn /dev/null /etc/systemd/system/prometheus.service; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		bubblewrap docker.io iptables debootstrap faketime iproute2 prometheus util-linux

sandbox-image: ## the image of the Docker sandbox, from Debian's packages (as root, with an engine running)
	tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	debootstrap --variant=minbase --include=python3,python3-pytest bookworm "$$tmp" >/dev/null && \
	ln -s python3 "$$tmp/usr/bin/python" && \
	tar -C "$$tmp" -c . | docker import - cairn-sandbox:latest

clean: ## remove the virtual environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
