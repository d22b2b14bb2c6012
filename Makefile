# make run     set up, then fine-tune the built-in model and leave a report
# make test    set up, then check that notebooks and package agree, lint, run all tests
# make lint    set up, then only check style and types
# make proof   set up, then what takes too long for every change
# make lab     set up, then open the lectures in JupyterLab
# make docs    set up, then build the site into _docs/
# make bench   set up, then run the benchmarks
# make clean   remove what can be built again; runs/ and .venv/ stay
#
# PYTHON=python3.12       the interpreter to use; by default the first of 3.11 to 3.14
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                         on Linux without a GPU: torch from there, which saves gigabytes

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
BIN = .venv/bin
STAMP = .venv/.set-up

.PHONY: run test lint proof lab docs bench clean
.DEFAULT_GOAL := run

$(STAMP): settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed; name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "setting up .venv with $(PYTHON); the first time takes some minutes"
	@$(PYTHON) -m venv .venv
	@test -z "$(TORCH_INDEX)" || $(BIN)/python -m pip install -q -c constraints.txt torch --index-url "$(TORCH_INDEX)"
	@$(BIN)/python -m pip install -q --use-pep517 -c constraints.txt -e '.[all,dev]'
	@touch $@

run: $(STAMP)
	@out=runs/first; n=2; \
	while [ -e "$$out" ]; do out=runs/run-$$n; n=$$((n + 1)); done; \
	$(BIN)/gpt-course finetune --out "$$out"

test: lint
	@$(BIN)/python tools/check_sync.py
	@$(BIN)/python -m pytest

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/basedpyright
	@$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema -q --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/zizmor --offline --no-progress -q .github

proof: $(STAMP)
	@$(BIN)/python tools/check_wheel.py --all
	@$(BIN)/python tests/kills.py --kills 200
	@GPT_COURSE_PROOF=1 $(BIN)/python -m pytest -q tests/test_fuzz.py tests/test_fuzz_models.py tests/test_distributed.py

lab: $(STAMP)
	@$(BIN)/jupyter lab nbs

docs: $(STAMP)
	@$(BIN)/python tools/build_docs.py

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py
	@$(BIN)/python benchmarks/start.py

clean:
	@rm -rf _docs _proc _site build dist *.egg-info .pytest_cache .ruff_cache nbs/nbdev.yml nbs/sidebar.yml
	@find . -name .venv -prune -o -name .git -prune -o \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
