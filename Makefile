# Everything runs in .venv, which `make install` creates.  A user of pip needs none of this.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow check docs bench bench-training clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[studies,openvino,ray,postgresql,dashboard,mlflow,docs,dev]"
	touch $@

demo: install
	$(BIN)/autocompress run studies/lenet5_mnist --space structured --budget latency=50% --out runs/demo

# Two at a time, a file in one process: tests count on one thread each.
test: install
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/: pages that are read without a network.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: install
	$(BIN)/python benchmarks/latency.py --study lenet5_mnist --family all --json runs/latency.json
	$(BIN)/python benchmarks/runtimes.py --study lenet5_mnist --study resnet20_fashion --family all --json runs/runtimes.json
	$(BIN)/python benchmarks/packed.py --json runs/packed.json
	$(BIN)/python benchmarks/techniques.py --study lenet5_mnist --layer conv2 --layer fc1 --json runs/techniques.json
	$(BIN)/python benchmarks/factors.py --study vgg_small_fashion --json runs/factors_vgg.json
	$(BIN)/python benchmarks/factors.py --study resnet20_fashion --layer stage1.1.conv1 --layer stage2.1.conv1 --layer stage3.2.conv2 --json runs/factors_resnet20.json
	$(BIN)/python benchmarks/search.py --study all --images 128 --json runs/search.json
	$(BIN)/python benchmarks/archive.py --study lenet5_mnist --study resnet20_fashion --json runs/archive.json
	$(BIN)/python benchmarks/landscape.py --study lenet5_mnist --study resnet20_fashion --images 128 --json runs/landscape.json
	$(BIN)/python benchmarks/neighbours.py --study lenet5_mnist --study resnet20_fashion --images 128 --json runs/neighbours.json
	$(BIN)/python benchmarks/peers.py --study lenet5_mnist --study resnet20_fashion --json runs/peers.json

# These train studies; two of the three need full MNIST (studies/README.md).
bench-training: install
	$(BIN)/python benchmarks/deep_compression.py --net lenet300 --net lenet5 --net vgg --post-training --json runs/deep_compression.json
	$(BIN)/python benchmarks/recovery.py --json runs/recovery.json

clean:
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache
