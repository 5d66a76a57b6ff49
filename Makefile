# make demo   build the environment if it is missing, run the main job, write runs/demo/index.html
# make demo-full   the demo, and the long runs whose rows it shows as recorded (about 20 CPU hours; the LiDAR runs take minutes on a GPU)
# make test   build the environment if it is missing, lint, run the tests
# make test-all   the tests with full matrices, and every Triton kernel compiled for every target
# make bench   re-measure the committed benchmark rows
# make clean  remove the environment

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2

.PHONY: demo demo-full test test-all bench clean env

env: $(STAMP)

# The stamp makes a repeated call cost nothing; an interrupted install leaves no stamp and is simply run again.
$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "linzoo needs Python >= 3.11, $(PYTHON) is %d.%d; try: make PYTHON=python3.11" % v)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[all,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/linzoo demo

demo-full: $(STAMP)
	$(BIN)/python -m linzoo.tools.digits_diffusion full
	$(BIN)/linzoo bench diffusion --save
	$(BIN)/linzoo bench diffusion sd15:linfusion:4096 --measures feed_forward --save
	$(BIN)/python -m linzoo.tools.street_scenes full
	$(BIN)/linzoo bench pointcloud --what backbones --save
	$(BIN)/linzoo demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pytest -n $(JOBS) --dist worksteal

test-all: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pytest -n $(JOBS) --dist worksteal --all-cases
	$(BIN)/linzoo kernel-report

bench: $(STAMP)
	$(BIN)/linzoo bench kernels --save
	$(BIN)/linzoo bench models --against-upstream --save
	$(BIN)/linzoo bench detection --save
	$(BIN)/linzoo bench decay-scan --save
	$(BIN)/linzoo bench selective-scan --save
	$(BIN)/linzoo bench sparse-conv --save
	$(BIN)/linzoo bench scatterformer --save

clean:
	rm -rf $(VENV) build dist *.egg-info
