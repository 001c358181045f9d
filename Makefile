# make train: the demo, from an empty clone to runs/demo/report.html.   make test: what CI runs.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
DATA := data/demo
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
# Huge pages for XLA's large CPU buffers: 15 to 20 % of the step (docs/results.md).
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: train test test-long lint collected clean

train: .venv/.installed
	$(BIN)/bokeh-jax data build --source=layered --max-layers=2 --out=$(DATA)
	$(BIN)/bokeh-jax train --config=configs/demo.py --workdir=$(RUN) --config.data.path=$(DATA)
	$(BIN)/bokeh-jax eval --workdir=$(RUN)
	$(BIN)/bokeh-jax data photo --out=$(RUN)/photo
	$(BIN)/bokeh-jax refocus $(RUN)/photo/photo.png --disparity=$(RUN)/photo/photo.disparity.png \
	  --all-in-focus --checkpoint=$(RUN) --focus=0.35,0.70 --blur=0.03 --out=$(RUN)/photo/near.png
	$(BIN)/bokeh-jax refocus $(RUN)/photo/photo.png --disparity=$(RUN)/photo/photo.disparity.png \
	  --all-in-focus --checkpoint=$(RUN) --focus=0.80,0.12 --blur=0.03 --out=$(RUN)/photo/far.png
	$(BIN)/bokeh-jax report --workdir=$(RUN) \
	  --photo="the photograph (Middlebury Motorcycle, measured disparity)=$(RUN)/photo/photo.png" \
	  --photo="focused near, on the motorcycle=$(RUN)/photo/near.png" \
	  --photo="focused far, on the wall behind=$(RUN)/photo/far.png"

# Pyright takes one core; meanwhile all tests are imported once, which compiles what they import for
# the workers. Three of those for two cores: some wait for the jobs of several processes.
test: .venv/.installed-dev
	$(MAKE) --no-print-directory --jobs=2 lint collected
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" --durations=10

collected: .venv/.installed-dev
	@mkdir -p .cache
	@$(BIN)/pytest --collect-only -q -m "not long" > .cache/collected || { cat .cache/collected; exit 1; }

test-long: .venv/.installed-dev
	$(BIN)/pytest -m long --durations=10

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv .cache

# One environment serves both; `test` adds the tools of development to it. What is imported is compiled
# then: compiling all of it took pip half of its time.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"Python {sys.version.split()[0]} found; allowed: 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[textures]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
