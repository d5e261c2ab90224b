# Thin over the three command lines; `python -m pipeline --help` and the like teach every option.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

CORPUS  ?=
OUT     ?=
VIEWS   ?=
WORKERS ?=
RUNNER  ?=
IMAGE   ?=
SHARDS  ?=
RUN     ?=
RUNS    ?=
PLAN    ?=
FILE    ?=
PRESET  ?=
PROMPT  ?=
ARGS    ?=

flag = $(if $(2),$(1) "$(2)")

.PHONY: help setup shards verify train evaluate sample export compress decompress report compare neural test test-all lint format image bench bench-loaders bench-train clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(READY) ## the virtual environment, with pinned versions (a CPU build of torch where there is no NVIDIA driver)

# Without an NVIDIA driver a CPU build of torch is enough, and gigabytes smaller: pip takes it where the configured indexes
# have it, else uv knows where it is published; only if both fail, the default build is taken.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@torch=$$(sed -n 's/^torch==//p' constraints.txt); \
	if ! command -v nvidia-smi >/dev/null 2>&1 && [ "$$(uname -s)" = Linux ] && \
	   ! $(BIN)/python -c 'import importlib.metadata as m; assert m.version("torch").startswith("'$$torch'")' 2>/dev/null; then \
		echo "installing torch $$torch, CPU build"; \
		$(BIN)/pip install --quiet -c constraints.txt "torch==$$torch+cpu" 2>/dev/null || \
		{ $(BIN)/pip install --quiet uv && VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --torch-backend=cpu "torch==$$torch"; } || \
		echo "no CPU build found: taking the default one (several GB)"; \
	fi
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

shards: $(READY) ## a shard set from CORPUS=<folder or file>[,more]; OUT=, VIEWS="sentencepiece gzip zstd brotli", WORKERS=, RUNNER=
	@test -n "$(CORPUS)" || { echo 'error: CORPUS is missing: make shards CORPUS=<folder or file>[,more] [OUT=<dir>]' >&2; exit 2; }
	$(BIN)/python -m pipeline build "$(CORPUS)" $(call flag,--out,$(OUT)) \
		$(call flag,--views,$(VIEWS)) $(call flag,--workers,$(WORKERS)) $(call flag,--runner,$(RUNNER)) $(ARGS)

verify: $(READY) ## every checksum and digest of SHARDS=<dir>; decodes every view
	$(BIN)/python -m shards verify "$(SHARDS)" $(ARGS)

# The demo's set: the interpreter's own standard library. Made only if there is no set yet and none was named.
data/stdlib/manifest.json: | $(READY)
	$(BIN)/python -m pipeline build "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
		--exclude site-packages --out data/stdlib --views "sentencepiece:vocab=2048 gzip zstd brotli"

train: $(READY) $(if $(SHARDS)$(wildcard data/*/manifest.json),,data/stdlib/manifest.json) ## a byte model from SHARDS=<dir> (the latest set); RUN=, PRESET=, ARGS="--steps 200"
	$(BIN)/python -m trainer train $(call flag,--shards,$(SHARDS)) $(call flag,--run,$(RUN)) $(call flag,--preset,$(PRESET)) $(ARGS)

evaluate: $(READY) ## bits per byte of RUN=<dir> on held-out raw bytes, by language, beside gzip, zstd, brotli and xz
	$(BIN)/python -m trainer evaluate $(call flag,--run,$(RUN)) $(ARGS)

sample: $(READY) ## continue PROMPT="def " with the model of RUN=<dir>
	$(BIN)/python -m trainer sample $(call flag,--run,$(RUN)) $(call flag,--prompt,$(PROMPT)) $(ARGS)

export: $(READY) ## the model of RUN=<dir> to OUT=<dir>, as transformers loads it
	@test -n "$(RUN)" -a -n "$(OUT)" || { echo 'error: make export RUN=<dir> OUT=<dir>' >&2; exit 2; }
	$(BIN)/python -m trainer export "$(RUN)" --out "$(OUT)" $(ARGS)

compress: $(READY) ## FILE=<file> with the model of RUN=<dir>, into FILE.bpx (OUT=)
	$(BIN)/python -m trainer compress "$(FILE)" $(call flag,--run,$(RUN)) $(call flag,--out,$(OUT)) $(ARGS)

decompress: $(READY) ## FILE=<file>.bpx again, bit for bit, with the model of RUN=<dir> (OUT=)
	$(BIN)/python -m trainer decompress "$(FILE)" $(call flag,--run,$(RUN)) $(call flag,--out,$(OUT)) $(ARGS)

report: $(READY) ## curves of RUN=<dir>, or of RUNS="<dir> <dir>" in one picture, as report.html and report.png (OUT=)
	$(BIN)/python -m trainer report $(or $(RUNS),$(RUN)) $(call flag,--out,$(OUT)) $(ARGS)

compare: $(READY) ## recipes at equal FLOPs: the runs of PLAN=<toml> on SHARDS=<dir>, resumable (OUT=, ARGS="--limit-seconds 3300" or --dry-run)
	@test -n "$(PLAN)" || { echo 'error: PLAN is missing: make compare PLAN=plans/smoke.toml [SHARDS=<dir>]' >&2; exit 2; }
	$(BIN)/python -m trainer compare "$(PLAN)" $(call flag,--shards,$(SHARDS)) $(call flag,--out,$(OUT)) $(ARGS)

neural: $(READY) ## the neural codec's LM, trained on SHARDS=<dir>, to OUT=<dir> (PRESET=lm-3m); then --view neural:OUT
	@test -n "$(SHARDS)" -a -n "$(OUT)" || { echo 'error: make neural SHARDS=<dir> OUT=<dir>' >&2; exit 2; }
	$(BIN)/python -m trainer neural --shards "$(SHARDS)" --out "$(OUT)" $(call flag,--preset,$(PRESET)) $(ARGS)

test: $(READY) ## the tests, but for slow, network and GPU ones
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not network and not gpu" $(ARGS)

test-all: $(READY) ## all tests
	$(BIN)/python -m pytest -q -n 2 $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

image: ## the workers' image for Dataflow, IMAGE=<registry/name:tag>, by Docker; push it yourself
	@test -n "$(IMAGE)" || { echo 'error: IMAGE is missing: make image IMAGE=<registry/name:tag>' >&2; exit 2; }
	docker build --tag "$(IMAGE)" .

bench: $(READY) ## the pipeline's time beside the codec libraries' own (CORPUS=, WORKERS="1 2")
	$(BIN)/python -m tests.bench.pipeline $(call flag,--corpus,$(CORPUS)) $(call flag,--workers,$(WORKERS)) $(ARGS)

bench-loaders: $(READY) ## our loader beside others, each in an environment of its own (CORPUS=, SHARDS=)
	$(BIN)/python -m tests.bench.loaders $(call flag,--corpus,$(CORPUS)) $(call flag,--shards,$(SHARDS)) $(ARGS)

bench-train: $(READY) $(if $(SHARDS),,data/stdlib/manifest.json) ## our training step beside transformers, LitGPT and a nanoGPT-style loop (SHARDS=)
	$(BIN)/python -m tests.bench.train $(call flag,--shards,$(SHARDS)) $(ARGS)

clean: ## remove what tools have cached (not data/, runs/ or .venv/)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
