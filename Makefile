# All the work is in scripts/dev.py, which also runs without make.
PYTHON ?= python3

.PHONY: help demo test setup format clean

help:
	@$(PYTHON) scripts/dev.py --help

demo test setup format clean:
	@$(PYTHON) scripts/dev.py $@
