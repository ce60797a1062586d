# Two commands do everything: `make study` and `make test`. `make help` lists the rest.

PROFILE ?= quick
# a part of the chapters, by their numbers: make study CHAPTERS="00 01"
CHAPTERS ?=
# further options of pip, such as another package index
PIP_ARGS ?=
# processes of the unit tests
JOBS ?= 2
VENV ?= .venv
# the first Python here that is new enough and can make virtual environments
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

RUN := $(VENV)/bin/python
BOOK := $(RUN) -m tools.book

# a backend chosen for scripts would leave the notebooks without pictures
unexport MPLBACKEND

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help study book report pretrained pretrained-cost pages notebooks test lint unit nbval dev clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

study: $(VENV)/.book  ## run chapters 00 to 10 with PROFILE (quick), live, and build the book of what they showed
	@$(BOOK) study --profile $(PROFILE) $(if $(CHAPTERS),--chapters $(CHAPTERS))

book: $(VENV)/.book  ## build the book without running anything: of the last run, else of the report that comes with it
	@$(BOOK) build

report: $(VENV)/.book  ## compute the report's tables anew on one GPU (the second base model too), then make its pages
	@test -f runs/base-1/config.json || { mkdir -p runs/base-1 && cp models/base/tokenizer*.json runs/base-1/ && \
		$(RUN) -m retrieval_heads pretrain --out runs/base-1 --seed 1 --seconds 515 --steps 5100 --short 0.9 0.25; }
	@$(RUN) -m retrieval_heads grid --profile report
	@$(RUN) -m retrieval_heads publish --profile report
	@$(BOOK) report
	@$(BOOK) build

# folder whose mdqa/ has the two official files that data/written/README.md names
OFFICIAL ?= official
STUDY := runs/pretrained-data

pretrained: $(VENV)/.book  ## the study of a pretrained model on one GPU: model, texts, runs, tables, page
	@test -f models/smollm2/model.safetensors || $(RUN) -m retrieval_heads fetch smollm2 --to models
	@test -f $(STUDY)/mdqa/high_high.jsonl.gz || $(RUN) tools/pretrained_official.py --to $(OFFICIAL)/mdqa
	@test -f $(STUDY)/mdqa/high_high.jsonl.gz || { $(RUN) -m retrieval_heads prepare --task mdqa --official $(OFFICIAL) \
		--tokenizer models/smollm2 --out runs/pretrained-prepared --length 16384 --eval-length 8192 --short-length 4096 \
		--records data/written/records_mdqa.json && \
		$(RUN) -m retrieval_heads write --real runs/pretrained-prepared/mdqa/real.jsonl.gz --tokenizer models/smollm2 \
		--length 16384 --texts data/written/mdqa_needles.jsonl.gz --out $(STUDY)/mdqa; }
	@$(RUN) -m retrieval_heads grid --profile pretrained
	@$(RUN) -m retrieval_heads publish --profile pretrained
	@$(BOOK) report --chapters 10

pretrained-cost: $(VENV)/.book  ## what is left of that study, and what it costs by what was measured; runs nothing
	@$(RUN) -m retrieval_heads grid --profile pretrained --dry-run

pages: $(VENV)/.book  ## make the report's pages from its tables, to be committed
	@$(BOOK) report $(if $(CHAPTERS),--chapters $(CHAPTERS))

notebooks: $(VENV)/.book  ## run the notebooks again with the smoke profile and store their outputs
	@$(BOOK) store $(if $(CHAPTERS),--chapters $(CHAPTERS))

test: lint unit nbval book  ## everything that continuous integration checks

lint: $(VENV)/.dev  ## check the style
	@echo "== ruff"
	@$(RUN) -m ruff check .

unit: $(VENV)/.dev  ## run the unit tests
	@echo "== unit tests"
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS)

nbval: $(VENV)/.dev  ## run the notebooks again and compare the outputs that they vouch for
	@echo "== notebooks"
	@$(BOOK) check
	@rm -rf _build/nbval  # nothing found from an earlier run: what is compared is computed anew
	@RETRIEVAL_HEADS_HOME="$(CURDIR)/_build/nbval" \
		$(RUN) -m pytest -q -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-sanitize-with sanitize.cfg notebooks

dev: $(VENV)/.dev  ## install what development needs
	@echo "installed in $(VENV)"

clean:  ## remove the built book and caches (results in runs/ and the environment stay)
	rm -rf _build book/chapters .pytest_cache .ruff_cache .hypothesis

$(RUN):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv was found. Install one" \
		"(Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11 study"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.book: $(RUN) pyproject.toml constraints.txt
	@echo "== installing into $(VENV) (once, some minutes)"
	@$(RUN) -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[book]'
	@touch $@

# after .book, so that two installations never write to one environment at a time
$(VENV)/.dev: $(VENV)/.book
	@echo "== installing the test tools"
	@$(RUN) -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
