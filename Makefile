# Two commands on a fresh machine: make demo, make test. Everything else is below.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint venv system-packages smoke bench bench-quick kills soak million batch-bulk lock clean

include templates/template.mk

demo: venv  ## classify the drawn sample pictures with the embedded services
	$(BIN)/python -m pipeline demo

test: venv system-packages  ## all tests, with branch coverage, on up to four cores
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --cov --cov-report=term

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)  ## .venv from the locked requirements

# --no-deps: the lock is complete, so there is nothing to resolve; hashes are checked. uv installs in seconds what takes
# pip a minute; where uv cannot reach the package index (pip has its own configuration), pip does it.
$(STAMP): requirements-dev.txt requirements-uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-uv.txt
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements-dev.txt \
	  || $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.txt
	touch $(STAMP)

system-packages:  ## what the tests need beside Python: a Chromium that opens the report
	tests/system-packages.sh

bench: venv  ## the pipeline beside what a user would pick instead; 15 minutes, best on an idle machine
	$(BIN)/python -m benchmarks

bench-quick: venv  ## the same in two minutes, for a first look
	$(BIN)/python -m benchmarks --quick

kills: venv  ## kills runs and services at random, and counts what it costs; 7 minutes
	$(BIN)/python -m benchmarks.kills

soak: venv  ## twenty minutes of random faults of the service, with the books checked by SQL
	$(BIN)/python -m benchmarks.soak

million: venv  ## a worklist of a million rows: seconds and memory of each step; 3 minutes
	$(BIN)/python -m benchmarks.million

batch-bulk: venv  ## a batch file of 200,000 requests, written and read: time and memory
	$(BIN)/python -m benchmarks.batch_bulk

smoke: venv  ## three real rows of your own table on real services: make smoke PROJECT=... TABLE=P.D.T OUTPUT=P.D.T
	@test -n "$(PROJECT)" -a -n "$(TABLE)" -a -n "$(OUTPUT)" || { echo "usage: make smoke PROJECT=... TABLE=P.D.T OUTPUT=P.D.T"; exit 2; }
	$(BIN)/python -m pipeline classify --project=$(PROJECT) --input_table=$(TABLE) --output_table=$(OUTPUT) --limit=3

lock: venv  ## write the lock files anew from setup.py
	$(BIN)/python -m uv pip compile setup.py --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade -q -o requirements.txt
	$(BIN)/python -m uv pip compile setup.py --extra dev -c requirements.txt --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q -o requirements-dev.txt
	echo uv | $(BIN)/python -m uv pip compile - -c requirements-dev.txt --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q -o requirements-uv.txt

clean:
	rm -rf $(VENV) demo_report.html .pytest_cache .mypy_cache .ruff_cache .local build dist *.egg-info
