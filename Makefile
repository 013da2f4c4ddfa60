# The targets of this project. `make help` lists them.
PYTHON ?= python3
ifeq ($(wildcard segmodels),)
$(error start make in the folder of the project, or with make -C FOLDER)
endif
# A path relative to this folder, whose own path may hold blanks: make splits names of targets at blanks
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(if $(filter /%,$(VENV)),$(BIN),$(CURDIR)/$(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
VARIANT ?= cpu
PROFILE ?= $(VARIANT)
OVERLAY ?= dev
PIP_OPTIONS = --quiet --disable-pip-version-check
BLANK := $(subst x,,x x)
CONFIGURATION = configurations/$(subst |,$(BLANK),$(patsubst params.%,%,$(basename $(notdir $(subst $(BLANK),|,$(PARAMS))))))

.DEFAULT_GOAL := help
.PHONY: help demo attacks test test-slow acceptance lint lint-types lint-rules docs ui bench bench-gpu sweep run camvid image push deploy golden lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V): set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@sed '/^-r /d; s/^torch==[0-9.]*/&+cpu/' requirements.lock > $(VENV)/cpu.lock   # without what the CUDA build of torch needs
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-deps --require-hashes -r \
	  $$($(BIN)/python -m pip install $(PIP_OPTIONS) --dry-run --no-deps $$(grep -o '^torch==[^ ]*' $(VENV)/cpu.lock) > /dev/null 2>&1 && echo $(VENV)/cpu.lock || echo requirements.lock)
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-deps -e .
	@touch $@

demo: $(VENV)/.installed  ## set up, run the six steps on the built-in digits, show the results
	@python -m components doctor --repair
	dvc repro
	@python -m components report

test: $(VENV)/.installed  ## set up, run the tests (minutes)
	OMP_NUM_THREADS=1 python -m pytest -n 3 --dist worksteal --ignore tests/acceptance -m 'not slow and not acceptance'

test-slow: $(VENV)/.installed  ## every model learns, exports and keeps its counts (more minutes)
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m slow

acceptance: $(VENV)/.installed  ## the whole system: object store, killed and resumed trainings, browser
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m acceptance

lock: $(VENV)/.installed  ## write the lock files anew after a change of pyproject.toml; CPU wheels of torch are looked for in WHEELS (wheelhouse)
	@for one in $(WHEELS); do test -d "$$one" || { echo "WHEELS names $$one, which is no folder: expected one with wheels of torch"; exit 2; }; done
	python infra/lock.py $(or $(WHEELS),wheelhouse)

lint: lint-types lint-rules  ## ruff, mypy, bandit, and imports that go down only

lint-types: $(VENV)/.installed
	mypy

lint-rules: $(VENV)/.installed
	ruff check .
	ruff format --check .
	lint-imports
	bandit -q -c pyproject.toml -r segmodels components pipelines infra

docs: $(VENV)/.installed  ## write the generated pages of docs/: models, encoders, losses, metrics, datasets, parameters
	python -m components.commands.docs docs

ui: $(VENV)/.installed  ## the MLflow UI, with links to its pages: PORT=5000
	@python -m components ui --port $(or $(PORT),5000)

attacks: $(VENV)/.installed  ## kills, outages, full disks, bad files and requests on a tiny workspace, in ten minutes
	python -m benchmarks.attacks

bench: $(VENV)/.installed  ## measure side by side with peers; writes benchmarks/RESULTS.md
	python -m pip install --quiet --no-deps --upgrade --target build/peers -r benchmarks/requirements.txt
	for name in metrics average_precision losses loader stored_shards train_loop models crf steps serving tracking integrity; do PYTHONPATH=build/peers python -m benchmarks.$$name || exit 1; done

bench-gpu:  ## measure on a GPU, with torch alone: at most 8 minutes, resumable; writes benchmarks/RESULTS-GPU.md
	$(PYTHON) -m benchmarks.gpu

sweep: $(VENV)/.installed  ## twelve models under one budget of MINUTES each (2): DVC's queue, MLflow runs, a table and a chart
	@python -m components doctor --repair
	python -m benchmarks.sweep --minutes $(or $(MINUTES),2)

run: $(VENV)/.installed  ## the six steps with another file of parameters, in configurations/NAME: PARAMS=params/NAME.yaml; STAGE=preprocess stops there
	@test -f "$(PARAMS)" || { echo "name a file of parameters: make run PARAMS=params/camvid.yaml"; exit 2; }
	@mkdir -p "$(CONFIGURATION)"
	@for name in dvc.yaml components segmodels; do ln -sfn ../../$$name "$(CONFIGURATION)/$$name"; done
	@ln -sfn "$$(realpath -s "$(PARAMS)")" "$(CONFIGURATION)/params.yaml"
	@cd "$(CONFIGURATION)" && python -m components doctor --repair $(addprefix --stage=,$(filter-out -%,$(STAGE)))
	cd "$(CONFIGURATION)" && dvc repro $(STAGE)
	@cd "$(CONFIGURATION)" && { test -n "$(STAGE)" || { echo "files named below are in $(CONFIGURATION)"; python -m components report; }; }

camvid:  ## train on CamVid, in configurations/camvid
	$(MAKE) run PARAMS=params/camvid.yaml

image: $(VENV)/.installed  ## build the image of the steps and its SBOM: VARIANT=cpu|gpu TORCH_INDEX=index of CPU wheels BASE_IMAGE=name@digest; wheelhouse/ is looked into first
	@mkdir -p build
	DOCKER_BUILDKIT=1 docker build --file infra/Dockerfile --iidfile build/image.id --build-arg VARIANT=$(VARIANT) --build-arg TORCH_INDEX=$(TORCH_INDEX) \
	  --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude='*') $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_OPTIONS) .
	docker run --rm --network none --entrypoint cat $$(cat build/image.id) /opt/segmodels/sbom.json > build/sbom.json
	docker tag $$(cat build/image.id) segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id)
	@docker image ls segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id)
	python -m pipelines pin segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id) --profile local

push:  ## build and push the image: REGISTRY=host/path BASE_IMAGE=name@digest VARIANT=cpu|gpu; its digest is pinned for PROFILE (that of the variant)
	@test -n "$(REGISTRY)" || { echo "name the registry: make push REGISTRY=host/path"; exit 2; }
	@expr "$(BASE_IMAGE)" : '.*@sha256:[0-9a-f]\{64\}$$' > /dev/null || { echo "BASE_IMAGE is '$(BASE_IMAGE)', expected the digest of the image that was checked: make push BASE_IMAGE=python:3.11-slim-bookworm@sha256:... (docker buildx imagetools inspect python:3.11-slim-bookworm shows it)"; exit 2; }
	$(MAKE) image
	docker tag $$(cat build/image.id) $(REGISTRY)/segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id)
	docker push $(REGISTRY)/segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id)
	python -m pipelines pin $(REGISTRY)/segmodels:$(VARIANT)-$$(cut -c 8-19 build/image.id) --profile $(PROFILE)

deploy: $(VENV)/.installed  ## apply infra/kustomize to the cluster of your kubeconfig: OVERLAY=dev|production|kserve, image pinned for PROFILE=cpu|gpu
	@test -f infra/profiles/$(PROFILE).lock.json || { echo "no image is pinned for profile $(PROFILE): run make push first (make help says how)"; exit 2; }
	kubectl kustomize infra/kustomize/overlays/$(OVERLAY) | \
	  sed "s|registry.invalid/segmodels@sha256:0\{64\}|$$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["image"])' infra/profiles/$(PROFILE).lock.json)|" | \
	  python infra/without_missing_kinds.py | kubectl apply -f -

golden: $(VENV)/.installed  ## write the compiled pipelines that the tests compare with
	for profile in local cpu gpu; do \
	  SEGMODELS_CODE_REVISION=golden python -m pipelines compile --profile $$profile --params tests/pipelines/golden/params.yaml \
	    --image registry.example/segmodels@sha256:$$(printf '0%.0s' $$(seq 64)) --output tests/pipelines/golden/$$profile.yaml || exit 1; \
	done
	SEGMODELS_CODE_REVISION=golden python -m pipelines compile --pipeline monitoring --profile cpu --params tests/pipelines/golden/params.yaml \
	  --image registry.example/segmodels@sha256:$$(printf '0%.0s' $$(seq 64)) --output tests/pipelines/golden/monitoring.yaml

clean:  ## remove what runs made: data, MLflow store, caches (the environment stays)
	rm -rf data configurations/*/data mlruns mlflow.db .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
