# One command from a fresh machine: `make exp NAME=tiger_tiny` sets everything up and runs the whole pipeline.
#
#   NAME, STAGE, ARGS   experiment, last stage, overrides: make exp NAME=tiger_beauty ARGS="seed=2 model.num_layers=3"
#   EXTRAS              what is installed (remembered): make setup EXTRAS=gpu,text,wandb,serve,dev on a CUDA machine
#   PYTHON_BIN          the Python that makes the environment (>= 3.11)
#   TORCH_INDEX         where torch comes from (remembered): TORCH_INDEX=https://download.pytorch.org/whl/cpu for the small CPU build
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup exp sids study ablation paper leaderboard sweep compare serve test check smoke bench lock clean

PYTHON_BIN ?= python3
PYTHON := .venv/bin/python
UV := .venv/bin/uv
SPREAD := --numprocesses auto --dist loadfile
comma := ,
space := $() $()
DEFAULT_EXTRAS := cpu,text,wandb,serve,dev
EXTRAS ?= $(or $(shell cat .venv/.extras 2>/dev/null),$(DEFAULT_EXTRAS))
override EXTRAS := $(subst $(space),$(comma),$(strip $(subst $(comma), ,$(EXTRAS))))
EXTRA_LIST := $(subst $(comma), ,$(EXTRAS))
KNOWN_EXTRAS := $(shell sed -n '/^\[project.optional-dependencies\]/,/^\[tool/s/^\([a-z]*\) = .*/\1/p' pyproject.toml)
$(if $(filter-out $(KNOWN_EXTRAS),$(EXTRA_LIST)),$(error EXTRAS=$(EXTRAS): expected some of $(KNOWN_EXTRAS)))
TORCH_INDEX ?= $(shell cat .venv/.torch-index 2>/dev/null)
$(if $(and $(filter cpu,$(EXTRA_LIST)),$(filter gpu,$(EXTRA_LIST))),$(error EXTRAS=$(EXTRAS): cpu or gpu, never both))
STAMP := .venv/.setup-$(subst $(comma),-,$(EXTRAS))$(if $(TORCH_INDEX),-$(subst /,-,$(subst :,,$(TORCH_INDEX))))
UNWANTED := $(if $(filter gpu,$(EXTRA_LIST)),faiss-cpu,faiss-gpu)

# uv reads neither pip's settings nor, unless told, the machine's certificates.
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export UV_SYSTEM_CERTS ?= true
# glibc otherwise returns large temporary tensors to the system at once: half the time of decoding is page faults.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 34359738368

help:  ## list the targets
	@sed -n '2,/^SHELL/s/^# \{0,1\}//p' Makefile
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## install the environment into .venv; the other targets do it by themselves

# The stamp comes last, so an interrupted set-up never counts as done.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON_BIN) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON_BIN) is missing or older than Python 3.11: make setup PYTHON_BIN=/path/to/python3.11" >&2; exit 1; }
	@rm -f .venv/.setup-*
	$(PYTHON_BIN) -m venv .venv
	@echo "$(EXTRAS)" > .venv/.extras
	$(PYTHON) -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	@$(UV) pip uninstall --quiet --python $(PYTHON) $(UNWANTED)
	$(UV) pip install --python $(PYTHON) --constraint constraints.txt \
	  $$([ "$$(cat .venv/.torch-index 2>/dev/null)" = "$(TORCH_INDEX)" ] || echo --reinstall-package torch) \
	  $(if $(TORCH_INDEX),--index $(TORCH_INDEX) --index-strategy unsafe-best-match) --editable ".[$(EXTRAS)]"
	@echo "$(TORCH_INDEX)" > .venv/.torch-index
	@touch $@

exp: $(STAMP)  ## run an experiment: NAME=tiger_beauty [STAGE=prepare] [ARGS="seed=2 ..."]; without NAME, list them
	@$(PYTHON) -m experiments.run $(NAME) $(if $(STAGE),stage=$(STAGE)) $(ARGS)

sids: $(STAMP)  ## semantic IDs measured and drawn, alone or side by side: NAME=tiger_beauty [AGAINST="tokenizer=lsh"] [ARGS="..."]
	@$(PYTHON) -m experiments.sids $(NAME) $(if $(AGAINST),against="$(AGAINST)") $(ARGS)

study: $(STAMP)  ## rows of changes on some experiments: NAME=tokenizers [SEEDS="1 2 3"] [ONLY="LSH,tree"] [ON=causal_beauty] [ARGS="..."]
	@$(PYTHON) -m experiments.study $(NAME) $(if $(SEEDS),seeds="$(SEEDS)") $(if $(ONLY),only="$(ONLY)") $(if $(ON),on="$(ON)") $(ARGS)

ablation: study  ## the study of a model's parts, switched off one by one: NAME=glass_kuairec [SEEDS="1 2 3"] [ARGS="..."]

paper: $(STAMP)  ## a paper's tables and figures beside the published ones: NAME=tiger [SEEDS="1 2 3"] [DATA="beauty"] [ONLY="Table 2"] [ARGS="..."]
	@$(PYTHON) -m experiments.paper $(NAME) $(if $(SEEDS),seeds="$(SEEDS)") $(if $(DATA),data="$(DATA)") $(if $(ONLY),only="$(ONLY)") $(ARGS)

leaderboard: $(STAMP)  ## every retriever of a data set, ranked: DATASET=beauty [SEEDS="1 2 3"] [ONLY="sasrec,tiger"] [ARGS="..."]
	@$(PYTHON) -m experiments.leaderboard $(DATASET) $(if $(SEEDS),seeds="$(SEEDS)") $(if $(ONLY),only="$(ONLY)") $(ARGS)

sweep: $(STAMP)  ## trials as a file in wandb's format asks: NAME=tiger_beauty SWEEP=codebook [JOBS=2] [ARGS="..."]
	@$(PYTHON) -m experiments.sweep $(NAME) $(SWEEP) $(if $(JOBS),jobs=$(JOBS)) $(ARGS)

compare: $(STAMP)  ## runs side by side, on the terminal and in compare.html: RUNS="runs/a/<hash> ..." [ARGS="--png FILE"]
	@$(PYTHON) -m experiments.compare $(RUNS) $(ARGS)

serve: $(STAMP)  ## a trained run as an HTTP service with a page: RUN=runs/<name>/<hash> [ARGS="port=8000"]
	@$(PYTHON) -m experiments.serve $(RUN) $(ARGS)

test: $(STAMP)  ## run the tests, a file at a time on every core: [ARGS="tests/sid -k trie"]
	$(PYTHON) -m pytest $(SPREAD) $(ARGS)

check: $(STAMP)  ## linter, formatter, types, tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest $(SPREAD)

smoke: $(STAMP)  ## the pipeline of TIGER, decoder-only, Sidlight, GLASS and SASRec on a small synthetic catalogue: Recall@10 at least 3 times popularity's
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for name in tiger_tiny causal_tiny sidlight_tiny glass_tiny sasrec_tiny; do \
	  { $(PYTHON) -m experiments.run $$name output_dir="$$folder" $(ARGS) && \
	  $(PYTHON) -c 'import json, sys; r = json.load(open(sys.argv[1])); \
	    sys.exit(r["metrics"]["recall@10"] < 3 * r["popularity"]["recall@10"])' "$$folder"/runs/$$name/*/test.json; } || exit 1; done

bench: $(STAMP)  ## speed beside the peers, of each stage, of classic models beside RecBole, with 12 k to 35 M items: [ARGS="..."] of benchmarks.run
	$(PYTHON) -m benchmarks.run $(ARGS)
	$(PYTHON) -m benchmarks.stages
	$(PYTHON) -m benchmarks.classic
	$(PYTHON) -m benchmarks.growth

lock: $(STAMP)  ## renew constraints.txt: the newest versions within pyproject.toml's ranges
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --no-header --no-annotate --no-emit-find-links \
	  $(foreach extra,$(subst $(comma), ,$(DEFAULT_EXTRAS)),--extra $(extra)) pyproject.toml --output-file .venv/lock.txt
	@{ echo "# Versions of the default set-up (extras $(DEFAULT_EXTRAS)); renewed by: make lock"; \
	  sed -E '/^(nvidia-|cuda-|triton)/d; s/^([^ ]+==[^ +]+)\+[^ ]+/\1/' .venv/lock.txt; } > constraints.txt

clean:  ## remove the environment and caches; data, artifacts and runs stay
	rm -rf .venv .venv-peers .venv-recbole *.egg-info build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
