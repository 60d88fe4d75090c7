# The two commands of the README, on a machine with Python 3.11+ and pip.
PYTHON ?= python3
WORKERS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean
demo: $(VENV)/ready
	$(BIN)/python -m common.prepare --data_dir=demo/data \
	    --dataset=synthetic_chorales/demo,synthetic_notes/demo
	$(BIN)/python -m common.train --config=lstm_jsb:demo \
	    --workdir=demo/lstm --data_dir=demo/data
	$(BIN)/python -m common.train --config=wavegan_sc09:demo \
	    --workdir=demo/wavegan --data_dir=demo/data
	$(BIN)/python -m common.evaluate --workdir=demo/lstm --data_dir=demo/data
	$(BIN)/python -m common.evaluate --workdir=demo/wavegan --data_dir=demo/data
	$(BIN)/python -m common.generate --workdir=demo/lstm --count=2
	$(BIN)/python -m common.generate --workdir=demo/wavegan --count=4
	$(BIN)/python -m common.report --workdirs=demo/lstm,demo/wavegan \
	    --out=demo/report.html

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/ready
	$(BIN)/ruff check .

# CONSTRAINTS= (empty) installs the newest versions that setup.py admits.
CONSTRAINTS ?= -c constraints.txt
$(VENV)/ready: setup.py constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else 'Python 3.11 to 3.13 is needed, $(PYTHON) is %d.%d; try make PYTHON=python3.11' % v[:2])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
