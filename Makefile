# The two commands: `make gate` runs the example suites, `make test` the tests. Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: gate test test-slow test-all test-min test-new test-gpu hardening fuzz lint bench bench-gpu embedded card clean
.DELETE_ON_ERROR:

gate: $(VENV)/installed
	$(BIN)/python -m pytest --finetune eval_suites

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m slow -n 2 --dist loadfile

test-all: test test-slow

# The lowest versions that pyproject.toml declares, and the newest there are, each in an environment of its own: unit
# tests, and a suite's gate.
test-min test-new: test-%: $(VENV)-%/installed
	OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -m pytest tests/unit -n 2 --dist loadfile
	$(VENV)-$*/bin/python -m pytest --finetune --finetune-store=.finetune/$* eval_suites/intent

# Every fault and every attack that docs/reliability.md lists, against the tests that prove it.
hardening: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --hardening -n 2 --dist loadfile

# Two minutes of each target by coverage; the same targets run under Hypothesis in `make test`.
fuzz: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	PYTHONPATH=.:tests OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

test-gpu: $(VENV)/installed
	$(BIN)/python -m pytest tests/gpu

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --quiet --offline --persona=auditor --strict-collection .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci .gitlab/finetune.gitlab-ci.yml

# Against TRL and lm-evaluation-harness, which it installs beside; hours on two cores.
# DATA holds train.csv and test.csv of github.com/PolyAI-LDN/task-specific-datasets, banking_data.
bench: $(VENV)/installed
	@test -n "$(DATA)" || { echo "make bench DATA=DIR: the folder with banking77's train.csv and test.csv"; exit 1; }
	$(BIN)/python -m benchmarks.peers
	for race in training_race evaluation_race verdict_race; do \
		$(BIN)/python -m benchmarks.$$race --data "$(DATA)" --out benchmarks/results/$$race.md || exit 1; done

bench-gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu.training
	$(BIN)/python -m benchmarks.gpu.evaluation

embedded: $(VENV)/installed
	$(BIN)/python -m recipes.embedded.pretrain --out pytest_finetune/embedded

card: $(VENV)/installed
	$(BIN)/python -m recipes.embedded.card

clean:
	rm -rf $(VENV) $(VENV)-min $(VENV)-new .finetune

$(VENV)-min/installed $(VENV)-new/installed: $(VENV)-%/installed: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet -c constraints-$*.txt torch==2.13.0
	$(VENV)-$*/bin/python -m pip install --quiet -c constraints-$*.txt -e ".[test]"
	touch $@

# torch first and by itself: a later package must find it satisfied, not fetch a build of its own.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@
