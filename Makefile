# Every target makes .venv and installs the project into it when they are missing.
PYTHON ?= python3
DATASET ?= digits
PRESET ?= laptop
SEEDS ?= 3
STUDY ?= ablation
ARGS ?=
BIN := .venv/bin
# kaleido draws PNGs with a browser
BROWSER := command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null
INSTALLED := .venv/.installed

.PHONY: install ablation study reports report docs pages test mutants lint torture look lab bench gpu clean

# pip fetches and unpacks one package after the other: torch's and all others side by side take half the time. A pin that
# does not suit this machine ends its half, and pip's own choice follows
HEAVY := ^(torch|nvidia|triton|cuda)
PINNED := $(BIN)/pip install --quiet --no-compile --no-deps --requirement /dev/stdin

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	@for rest in "" -v; do grep $$rest -E '$(HEAVY)' constraints.txt | $(PINNED) >/dev/null 2>&1 & done; wait
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test,data,ray,tables,export,docs]'
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib >/dev/null || true # on all cores: pip's own way takes a minute
	@$(BROWSER) || $(BIN)/plotly_get_chrome -y >/dev/null 2>&1 || \
		echo "no browser: figures stay interactive, reports come without PNGs; install chromium for them"
	touch $(INSTALLED)

# the main job: joint against sequential search where the question has an answer, with few images and enough epochs; its
# report in reports/
ablation: SEEDS := 5
ablation: MAIN = -p name ablation-$(notdir $(DATASET))-200 -p train_images 200 -p epochs 64
ablation: study

study: $(INSTALLED)
	mkdir -p build
	$(BIN)/papermill notebooks/$(STUDY).ipynb build/$(STUDY)-$(notdir $(DATASET)).ipynb --log-output --no-progress-bar \
		-p dataset $(DATASET) -p preset $(PRESET) -p seeds $(SEEDS) $(MAIN) $(ARGS)

# the committed reports: text and tables again from the summaries of their runs, the same bytes everywhere; what has none is run
REPORTS := ablation-digits-200 joint-digits-200 ablation-digits ablation-fashion_mnist ablation-fashion_mnist-full methods-digits methods-digits-daas methods-fashion_mnist limits-digits-params limits-digits-latency_ms landscape-digits
reports: $(INSTALLED)
	$(MAKE) $(foreach name,$(REPORTS),reports/$(name).json)
	$(BIN)/python -m kit.studies.report reports
	$(MAKE) pages

reports/ablation-digits-200.json:
	$(MAKE) ablation DATASET=digits
# the same over 20 seeds, with which half a point can be told from chance
reports/joint-digits-200.json:
	$(MAKE) study DATASET=digits SEEDS=20 ARGS='-p name joint-digits-200 -p methods joint,plain,ista,seq-dha,dha,random \
		-p train_images 200 -p epochs 64'
reports/%.json:
	$(MAKE) study STUDY=$(word 1,$(subst -, ,$*)) DATASET=$(word 2,$(subst -, ,$*)) $(SIZE_$*)
reports/limits-%.json: | $(INSTALLED)
	mkdir -p build
	$(BIN)/papermill notebooks/limits.ipynb build/limits-$*.ipynb --log-output --no-progress-bar -p reports reports \
		-p dataset $(firstword $(subst -, ,$*)) -p cost $(lastword $(subst -, ,$*)) -p epochs 12 $(SIZE_limits-$*)

reports/landscape-%.json: | $(INSTALLED)
	mkdir -p build
	$(BIN)/papermill notebooks/landscape.ipynb build/landscape-$*.ipynb --log-output --no-progress-bar -p dataset $* -p seed 0,1,2

SIZE_limits-digits-params := -p seeds 4
SIZE_limits-digits-latency_ms := -p seeds 3 -p shares 0.1,0.3,1
SIZE_ablation-digits := SEEDS=5
SIZE_ablation-fashion_mnist := ARGS='-p image_size 14 -p train_images 3000 -p epochs 10'
# all 60,000 images at 28 pixels: two hours of one CPU core. tau_lr: the laptop preset's for ten times the steps
SIZE_ablation-fashion_mnist-full := SEEDS=1 PRESET=server ARGS='-p name ablation-fashion_mnist-full -p methods dha,ista,da+hpo,plain \
	-p epochs 10 -p channels 16 -p cells 5 -p precision bfloat16 -p drop_path 0 -p auxiliary 0 -p tau_lr 0.003'
# DAAS with its own numbers of samples, on a laptop's networks and epochs: 20 minutes of one busy core
SIZE_methods-digits-daas := SEEDS=1 ARGS='-p name methods-digits-daas -p methods daas,daas-da,random -p children 10 -p arch_samples 5 -p policies 2'
SIZE_methods-fashion_mnist := ARGS='-p image_size 14 -p train_images 2000 -p epochs 8'

# one self-contained HTML page of a run: make report RUN=runs/digits-dha-s0-… [OUT=page.html]; without OUT, report.html in the run directory
report: $(INSTALLED)
	$(BIN)/python -m kit.studies.page $(if $(RUN),"$(RUN)") $(if $(OUT),"$(OUT)")

# the parts of the pages that follow from the code and the reports, written anew
pages: $(INSTALLED)
	$(BIN)/python docs/pages.py

# the pages as a site in build/site. They are copied first, as they lie in the repository, so that a link is right in both
docs: pages
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp -r README.md CHANGELOG.md CITATION.cff LICENSE docs notebooks reports build/pages
	rm -rf build/pages/docs/__pycache__ build/pages/docs/recipes/__pycache__
	$(BIN)/mkdocs build --strict --quiet
	@echo "to read it: $(BIN)/python -m http.server --directory build/site"

# pytest and nbval together, a file a worker, the slow ones first (tests/conftest.py), one thread each; four workers, as many
# tests wait for processes of their own, which read kit compiled; the notebooks run on real data, only smaller and shorter
SMALL := {"dataset": "digits", "epochs": 2, "search_epochs": 1, "channels": 4, "search_channels": 4, "cells": 2, "search_cells": 2, "reductions": 1, \
	"batch_size": 256, "train_images": 512, "methods": "dha,seq-dha,plain", "seeds": 2, "shares": "0.15,1", "steps": 5, "directions": 2, \
	"images": 64, "updates": 19, "out": "build/test/runs", "reports": "build/test/reports"}

test: $(INSTALLED)
	KIT_PARAMETERS='$(SMALL)' OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist loadfile tests \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with tests/nbval.cfg notebooks

# faults of one line each, put into kit one at a time: every one has to make the tests that are named beside it fail
mutants: $(INSTALLED)
	$(BIN)/python tests/mutants.py $(ARGS)

# format, lint, and the shape of the code: lines of each room, no import circle, nothing that points upward
lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/structure.py

# a hundred kills at random moments and in the middle of writes; each run must end bit-identical. make torture KILLS=500
KILLS ?= 100
torture: $(INSTALLED)
	$(BIN)/python tests/torture.py $(KILLS)

# every notebook in JupyterLab at three widths in both themes, opened again after it ran; screenshots in build/look
look: $(INSTALLED)
	KIT_PARAMETERS='$(SMALL)' $(BIN)/python tests/look.py $(ARGS)

# JupyterLab with the project as its root, its first notebook open
lab: $(INSTALLED)
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" notebooks/start.ipynb $(ARGS)

# all benchmarks, their report in reports/bench-<device>.md; make bench ARGS='--only step,augment'
bench: $(INSTALLED)
	$(BIN)/python benchmarks/all.py $(ARGS)

# the check on a real GPU, at most eight minutes, its report in reports/bench-<device>.md: make gpu [PARTS=tests,step] [AGAIN=1]; what it needs where
# there is no network, and what it measures: benchmarks/gpu.py. Without .venv it takes the machine's own Python
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --parts "$(PARTS)" $(if $(AGAIN),--again) $(ARGS)

clean:
	rm -rf .venv build
